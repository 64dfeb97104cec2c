package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// eachHTTP2 runs f in two bubbles: with HTTP/2 over TLS, and without TLS by prior knowledge.
func eachHTTP2(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Helper()
	for name, secure := range map[string]bool{"TLS": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) { f(t, secure) })
		})
	}
}

// An http2Server serves HTTP/2 over pipes, in a bubble.
type http2Server struct {
	*http.Server
	listener *pipeListener
	url      string
	client   *http.Client // dials the server; its connections end with the test
	dials    atomic.Int32 // of client
}

// serveHTTP2 starts a server, whose settings the last functions change, until the test ends.
func serveHTTP2(t *testing.T, secure bool, h http.Handler, set ...func(*http.Server)) *http2Server {
	t.Helper()
	s := &http2Server{
		Server:   &http.Server{Handler: h, HTTP2: smallWindows, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)},
		listener: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})},
		url:      "ws://example.com/chat?x=1",
	}
	for _, f := range set {
		f(s.Server)
	}
	s.Protocols.SetHTTP2(secure)
	s.Protocols.SetUnencryptedHTTP2(!secure)
	s.client = http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		s.dials.Add(1)
		return s.listener.dial(ctx, network, addr)
	})
	if secure {
		s.url = "wss" + strings.TrimPrefix(s.url, "ws")
		s.TLSConfig, _ = certified()
		s.TLSConfig = s.TLSConfig.Clone()
		go s.ServeTLS(s.listener, "", "")
	} else {
		go s.Serve(s.listener)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// http2Client returns a client that dials with the given function. At the end of the test its connections are closed.
func http2Client(t *testing.T, dial dialer) *http.Client {
	t.Cleanup(func() { pass(2 * closeDelay) })
	_, ofClient := certified()
	return &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: ofClient, HTTP2: smallWindows}}
}

// dial dials the server.
func (s *http2Server) dial(t *testing.T, opts Options) *Conn {
	t.Helper()
	if opts.HTTPClient == nil {
		opts.HTTPClient = s.client
	}
	c, err := dialHTTP2(t, s.url, time.Minute, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dialHTTP2 dials within d. The connection ends with the test.
func dialHTTP2(t *testing.T, url string, d time.Duration, opts Options) (*Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	opts.HTTP2 = true
	c, err := Dial(ctx, url, &opts)
	if err == nil {
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, err
}

// Types of HTTP/2's frames (RFC 9113, section 6).
const (
	h2Headers  = 1
	h2Reset    = 3
	h2Settings = 4
	h2GoAway   = 7
)

// appendH2 appends a frame.
func appendH2(b []byte, typ, flags byte, stream uint32, payload ...byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), typ, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// http2Answers are answers to the HEADERS frame of a request; nil is the end of the connection.
var http2Answers = map[string]func(stream uint32) []byte{
	"200":            func(stream uint32) []byte { return appendH2(nil, h2Headers, 4, stream, 0x88) }, // :status 200
	"REFUSED_STREAM": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 7) },
	"INTERNAL_ERROR": func(stream uint32) []byte { return appendH2(nil, h2Reset, 0, stream, 0, 0, 0, 2) },
	"GOAWAY":         func(uint32) []byte { return appendH2(nil, h2GoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
	"EOF":            func(uint32) []byte { return nil },
}

// serveFrames is a server of HTTP/2 that answers each HEADERS frame with what respond returns.
func serveFrames(nc net.Conn, respond func(stream uint32) []byte) {
	in := bufio.NewReader(nc)
	in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	enableConnect := []byte{0, 8, 0, 0, 0, 1}
	nc.Write(appendH2(appendH2(nil, h2Settings, 0, 0, enableConnect...), h2Settings, 1, 0))
	for {
		var h [9]byte
		if _, err := io.ReadFull(in, h[:]); err != nil {
			return
		}
		in.Discard(int(h[0])<<16 | int(h[1])<<8 | int(h[2]))
		if h[3] != h2Headers {
			continue
		}
		answer := respond(binary.BigEndian.Uint32(h[5:]))
		if answer == nil {
			nc.Close()
		}
		nc.Write(answer)
	}
}

// newBodyConn returns an h2Conn over the body of a 101 response, and the peer.
func newBodyConn() (*h2Conn, net.Conn) {
	near, far := net.Pipe()
	return newH2Conn(bodyStream{near}).start(streamAddr("local"), streamAddr("example.com")), far
}

func TestH2Conn_MovesDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, far := newBodyConn()
		defer c.Close()
		if c.LocalAddr().String() != "local" || c.RemoteAddr().String() != "example.com" || c.RemoteAddr().Network() != "websocket" {
			t.Errorf("the addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
		}
		data := countingBytes(4 * pipeSize)
		c.SetDeadline(time.Now().Add(time.Second))
		n, err := c.Write(data)
		if n != pipeSize {
			t.Errorf("Write took %d bytes", n)
		}
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		_, err = c.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		c.SetDeadline(time.Time{})
		rest := background(func() error { _, err := c.Write(data[n:]); return err })
		got := make([]byte, len(data))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the peer read other bytes, %v", err)
		}
		if err := <-rest; err != nil {
			t.Error(err)
		}
		go far.Write([]byte("hello"))
		wantPipeRead(t, c, "hello")
	})
}

func TestH2Conn_Close(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *h2Conn, far net.Conn)
		want error // of a Read
	}{
		{"by us", func(c *h2Conn, _ net.Conn) { c.Close() }, net.ErrClosed},
		{"by the peer", func(_ *h2Conn, far net.Conn) { far.Close() }, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c, far := newBodyConn()
				defer far.Close()
				c.tryWrite(make([]byte, pipeSize))
				synctest.Wait()
				read := background(func() error { _, err := c.Read(make([]byte, 1)); return err })
				wrote := background(func() error { _, err := c.Write(make([]byte, 2*pipeSize)); return err })
				synctest.Wait()
				tt.end(c, far)
				wantError(t, "Read", <-read, tt.want)
				if err := <-wrote; err == nil {
					t.Error("Write: nil")
				}
				again := c.Close()
				if errors.Is(tt.want, net.ErrClosed) != errors.Is(again, net.ErrClosed) {
					t.Errorf("Close: %v", again)
				}
				if _, err := far.Write([]byte("x")); err != io.ErrClosedPipe {
					t.Errorf("the peer still writes: %v", err)
				}
			})
		})
	}
}

// What was written before Close is sent if the peer has ended its direction: so a close frame is answered.
func TestH2Conn_SendsTheRestAfterThePeersEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		near, far := newPipe()
		c := newH2Conn(bodyStream{near}).start(nil, nil)
		far.CloseWrite()
		synctest.Wait()
		c.Write([]byte("goodbye"))
		c.Close()
		if p, err := io.ReadAll(far); string(p) != "goodbye" || err != nil {
			t.Errorf("the peer read %q, %v", p, err)
		}
	})
}

// RFC 8441, section 5: "Orderly TCP-level closures are represented as END_STREAM flags", and RST_STREAM is an abrupt
// end.
func TestConn_HTTP2_Ends(t *testing.T) {
	nothing := func(c *Conn) { c.Read(context.Background()) }
	for _, tt := range []struct {
		name           string
		server, client func(*Conn)
		ofServer       bool // whose Read is judged
		code           StatusCode
		text           string
	}{
		{"Close of the client", nothing, func(c *Conn) { c.Close(4000, "bye") }, true, 4000, "bye"},
		{"CloseNow of the client", nothing, func(c *Conn) { c.CloseNow() }, true, StatusAbnormalClosure, "CANCEL"},
		{"END_STREAM of the client", nothing, func(c *Conn) { c.nc.(*h2Conn).CloseWrite() }, true, StatusAbnormalClosure, "unexpected EOF"},
		{"CloseNow of the server", func(c *Conn) { pass(time.Second); c.CloseNow() }, nothing, false, StatusAbnormalClosure, "INTERNAL_ERROR"},
		{"return of serve", func(c *Conn) {}, nothing, false, StatusNormalClosure, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachHTTP2(t, func(t *testing.T, secure bool) {
				servers := make(chan *Conn, 1)
				s := serveHTTP2(t, secure, Handler(nil, func(c *Conn, r *http.Request) {
					servers <- c
					tt.server(c)
				}))
				c := s.dial(t, Options{})
				judged := c
				if tt.ofServer {
					judged = <-servers
				}
				tt.client(c)
				_, _, err := judged.Read(testContext(t))
				if !errors.Is(err, tt.code) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("Read returned %v, want %v with %q", err, tt.code, tt.text)
				}
			})
		})
	}
}

// A client masks its frames over HTTP/2 too, and a server does not.
func TestConn_HTTP2_Masks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		got := make(chan []byte, 1)
		s := serveHTTP2(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			b := make([]byte, 2+4+5)
			io.ReadFull(r.Body, b)
			got <- b
			w.Write([]byte{0x81, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'})
			http.NewResponseController(w).Flush()
			io.Copy(io.Discard, r.Body)
		}))
		c := s.dial(t, Options{})
		c.Write(testContext(t), TextMessage, []byte("hello"))
		b := <-got
		plain := make([]byte, 5)
		mask(plain, b[6:], [4]byte(b[2:6]), 0)
		if b[0] != 0x81 || b[1] != 0x85 || string(plain) != "hello" {
			t.Errorf("sent % x", b)
		}
		_, _, err := c.Read(testContext(t))
		wantError(t, "Read of a masked frame", err, StatusProtocolError)
	})
}

func TestConn_HTTP2_FailsAfterWriteTimeout(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			eachHTTP2(t, func(t *testing.T, secure bool) {
				fill := func(c *Conn) (err error) {
					for err == nil {
						err = c.Write(context.Background(), BinaryMessage, make([]byte, 64<<10))
					}
					return err
				}
				failed := make(chan error, 1)
				opts := Options{WriteTimeout: time.Second}
				s := serveHTTP2(t, secure, Handler(&opts, func(c *Conn, r *http.Request) {
					if side == "server" {
						failed <- fill(c)
					}
					<-r.Context().Done()
				}))
				c := s.dial(t, opts)
				if side == "client" {
					failed <- fill(c)
				}
				wantError(t, "Write", <-failed, os.ErrDeadlineExceeded, StatusAbnormalClosure)
			})
		})
	}
}

// A handler that upgrades by itself may return after CloseNow: what was answered to the client before still arrives.
func TestConn_HTTP2_ClosesBeforeItsHandlerReturns(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		s := serveHTTP2(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.CloseNow()
			echoMessages(c, r)
		}))
		for range 20 {
			c := s.dial(t, Options{})
			checkInterruptedEcho(t, c)
			if err := c.Close(StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		}
	})
}

// http.Server.Shutdown waits for the streams, which a Group ends.
func TestConn_HTTP2_EndsWithItsGroup(t *testing.T) {
	eachHTTP2(t, func(t *testing.T, secure bool) {
		var g Group
		s := serveHTTP2(t, secure, Handler(&Options{Group: &g}, echoMessages))
		c := s.dial(t, Options{})
		read := background(func() error { _, _, err := c.Read(context.Background()); return err })
		if err := g.Shutdown(testContext(t), StatusGoingAway, ""); err != nil {
			t.Error(err)
		}
		wantError(t, "Read", <-read, StatusGoingAway)
		if err := s.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
	})
}

func TestConn_HTTP2_SendsAtOnceThoughThePeerTakesNothing(t *testing.T) {
	m, _ := NewPreparedMessage(BinaryMessage, make([]byte, 1000))
	for name, send := range map[string]func(c *Conn, g *Group) error{
		"Send":         func(c *Conn, _ *Group) error { return c.Send(BinaryMessage, make([]byte, 1000)) },
		"SendPrepared": func(c *Conn, _ *Group) error { return c.SendPrepared(m) },
		"Broadcast": func(_ *Conn, g *Group) error {
			if g.Broadcast(m) == 0 {
				return ErrBacklog
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachHTTP2(t, func(t *testing.T, secure bool) {
				var g Group
				s := serveHTTP2(t, secure, Handler(nil, func(_ *Conn, r *http.Request) { <-r.Context().Done() }))
				c := s.dial(t, Options{Group: &g})
				start := time.Now()
				var err error
				for err == nil {
					err = send(c, &g)
				}
				if d := time.Since(start); err != ErrBacklog || d > 0 {
					t.Errorf("it took %v until %v", d, err)
				}
			})
		})
	}
}

// A freezer is a connection whose path can break without a word: nothing arrives any more, either way.
type freezer struct {
	*closeRecorder
	frozen atomic.Bool
}

func newFreezer(nc net.Conn) *freezer { return &freezer{closeRecorder: newCloseRecorder(nc)} }

func (f *freezer) Read(p []byte) (int, error) {
	if f.frozen.Load() {
		<-f.closed
	}
	return f.closeRecorder.Read(p)
}

func (f *freezer) Write(p []byte) (int, error) {
	if f.frozen.Load() {
		return len(p), nil
	}
	return f.closeRecorder.Write(p)
}

// stuckConn returns the server's end of a connection whose peer does not read from TCP any more, and a Write of it. That
// keeps net/http from ending the stream.
func stuckConn(t *testing.T, secure bool, g *Group) (c *Conn, wrote <-chan error) {
	t.Helper()
	servers := make(chan *Conn, 1)
	s := serveHTTP2(t, secure, Handler(&Options{Group: g, CloseTimeout: time.Second}, func(c *Conn, r *http.Request) {
		servers <- c
		<-c.Context().Done()
	}))
	var path *freezer
	s.dial(t, Options{HTTPClient: http2Client(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := s.listener.dial(ctx, network, addr)
		path = newFreezer(nc)
		return path, err
	})})
	t.Cleanup(func() { path.Close() })
	path.frozen.Store(true)
	c = <-servers
	wrote = background(func() error { return c.Write(context.Background(), BinaryMessage, make([]byte, 1<<20)) })
	synctest.Wait()
	return c, wrote
}

func TestConn_HTTP2_ClosesThoughTheConnectionIsStuck(t *testing.T) {
	for name, end := range map[string]func(g *Group, c *Conn){
		"CloseNow": func(_ *Group, c *Conn) { c.CloseNow() },
		"Close":    func(_ *Group, c *Conn) { c.Close(StatusNormalClosure, "") },
		"Shutdown": func(g *Group, _ *Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			g.Shutdown(ctx, StatusGoingAway, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachHTTP2(t, func(t *testing.T, secure bool) {
				var g Group
				c, wrote := stuckConn(t, secure, &g)
				start := time.Now()
				end(&g, c)
				if err := <-wrote; err == nil {
					t.Error("Write: nil")
				}
				if d := time.Since(start); d > 3*time.Second {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// After any Close or CloseNow the handler may return. So each of them waits for the last Write of the stream.
func TestConn_HTTP2_WaitsForTheStreamInEveryClose(t *testing.T) {
	for name, again := range map[string]func(c *Conn){
		"CloseNow": func(c *Conn) { c.CloseNow() },
		"Close":    func(c *Conn) { c.Close(StatusNormalClosure, "") },
	} {
		t.Run(name, func(t *testing.T) {
			eachHTTP2(t, func(t *testing.T, secure bool) {
				c, _ := stuckConn(t, secure, nil)
				go c.CloseNow()
				synctest.Wait()
				start := time.Now()
				again(c)
				if d := time.Since(start); d != lingering {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}
