package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// What users of the two ends see, over loopback and every one of the testTransports (A117). The tests of the protocol,
// with a peer that writes frames by hand, run over the like of them in eachRole.

// connectBy returns the two ends of a connection.
func connectBy(t *testing.T, tr testTransport, server, client *Options) (s, c *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	c = tr.dial(t, server, client, func(c *Conn, _ *http.Request) {
		accepted <- c
		<-c.Context().Done()
	})
	s = <-accepted
	t.Cleanup(func() { s.CloseNow() })
	return s, c
}

// eachTransport runs f for the two ends of a connection.
func eachTransport(t *testing.T, opts *Options, f func(t *testing.T, server, client *Conn)) {
	t.Helper()
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			s, c := connectBy(t, tr, opts, opts)
			f(t, s, c)
		})
	}
}

// eachWay is eachTransport, in either direction.
func eachWay(t *testing.T, opts *Options, f func(t *testing.T, from, to *Conn)) {
	t.Helper()
	t.Run("FromServer", func(t *testing.T) { eachTransport(t, opts, f) })
	t.Run("FromClient", func(t *testing.T) {
		eachTransport(t, opts, func(t *testing.T, s, c *Conn) { f(t, c, s) })
	})
}

// soon returns a context that ends a test which would hang.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); pass(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%s: still not so", what)
		}
	}
}

var waysToWrite = map[string]func(ctx context.Context, c *Conn, typ MessageType, p []byte) error{
	"Write": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error { return c.Write(ctx, typ, p) },
	"Send":  func(_ context.Context, c *Conn, typ MessageType, p []byte) error { return c.Send(typ, p) },
	"WritePrepared": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		m, err := NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return c.WritePrepared(ctx, m)
	},
	"SendPrepared": func(_ context.Context, c *Conn, typ MessageType, p []byte) error {
		m, err := NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return c.SendPrepared(m)
	},
	"Writer": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		for piece := 1; len(p) > 0; piece = piece*3 + 1 { // in fragments, some of which cut characters
			n := min(piece, len(p))
			if _, err := w.Write(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
		return w.Close()
	},
	"ReadFrom": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(p)); err != nil {
			return err
		}
		return w.Close()
	},
}

var waysToRead = map[string]func(ctx context.Context, c *Conn) (MessageType, []byte, error){
	"Read": func(ctx context.Context, c *Conn) (MessageType, []byte, error) { return c.Read(ctx) },
	"Reader": func(ctx context.Context, c *Conn) (MessageType, []byte, error) {
		typ, r, err := c.Reader(ctx)
		if err != nil {
			return 0, nil, err
		}
		p, err := io.ReadAll(r)
		return typ, p, err
	},
	"Messages": func(ctx context.Context, c *Conn) (MessageType, []byte, error) {
		for m, err := range c.Messages(ctx) {
			return m.Type, bytes.Clone(m.Data), err
		}
		return 0, nil, io.EOF
	},
}

// message returns n bytes of text, which are less regular in a binary message.
func message(typ MessageType, n int) []byte {
	p := []byte(strings.Repeat("h€llo, wörld; ", n/17+1)[:n])
	if typ == TextMessage {
		return bytes.ToValidUTF8(p, []byte("."))
	}
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range p[:n/2] {
		p[i] = byte(r.Uint32())
	}
	return p
}

// exchange sends a message of every size in every way to write, and has it read in every way to read.
func exchange(t *testing.T, from, to *Conn, sizes ...int) {
	t.Helper()
	ctx := soon(t)
	for write, send := range waysToWrite {
		for read, receive := range waysToRead {
			for i, n := range sizes {
				typ := MessageType(i%2 + 1)
				p := message(typ, n)
				sent := background(func() error { return send(ctx, from, typ, p) })
				got, q, err := receive(ctx, to)
				if err != nil || got != typ || !bytes.Equal(q, p) {
					t.Fatalf("%s of %d bytes, %s: type %d, %d bytes, %v", write, len(p), read, got, len(q), err)
				}
				if err := <-sent; err != nil {
					t.Fatalf("%s of %d bytes: %v", write, len(p), err)
				}
			}
		}
	}
}

// A58, A63, A64, A69, A94, A95: every way of writing and reading, at the borders of lengths and buffers.
func TestTransports_Messages(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		exchange(t, from, to, 0, 1, 125, 126, 4096, 16<<10, 16<<10+1, 65535, 65536, 65537)
	})
}

func TestTransports_LargeMessages(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		ctx := soon(t)
		p := message(BinaryMessage, 1<<20)
		sent := background(func() (err error) {
			for _, send := range waysToWrite {
				err = errors.Join(err, send(ctx, from, BinaryMessage, p))
			}
			return err
		})
		for range waysToWrite {
			wantRead(t, to, BinaryMessage, string(p))
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// B7, B8, B10, B42: with permessage-deflate, and the window kept or not.
func TestTransports_Compression(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(fmt.Sprintf("Takeover=%t", takeover), func(t *testing.T) {
			opts := &Options{Compression: &Compression{ContextTakeover: takeover}}
			eachWay(t, opts, func(t *testing.T, from, to *Conn) {
				exchange(t, from, to, 0, 1, 127, 128, 4096, 65537)
				if s := from.Stats(); s.BytesWritten > s.PayloadWritten*3/4 {
					t.Errorf("nothing is compressed: %+v", s)
				}
				sent, received := from.Stats(), to.Stats()
				if sent.PayloadWritten != received.PayloadRead || sent.MessagesWritten != received.MessagesRead {
					t.Errorf("written %+v, read %+v", sent, received)
				}
			})
		})
	}
}

// A92, R51: what is no text is not sent in any way; the connection goes on.
func TestTransports_WrongText(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		for name, send := range waysToWrite {
			if name == "Writer" || name == "ReadFrom" {
				continue // these fail the connection, for the message is open
			}
			if err := send(soon(t), from, TextMessage, []byte("caf\xe9 ")); err == nil {
				t.Errorf("%s took what is not UTF-8", name)
			}
		}
		from.Send(TextMessage, []byte("café"))
		wantRead(t, to, TextMessage, "café")
	})
}

// A110, A116, R10: the limit is told to who passed it.
func TestTransports_Limit(t *testing.T) {
	eachWay(t, &Options{MaxMessageSize: 1000}, func(t *testing.T, from, to *Conn) {
		from.Send(BinaryMessage, make([]byte, 1000))
		from.Send(BinaryMessage, make([]byte, 1001))
		wantRead(t, to, BinaryMessage, string(make([]byte, 1000)))
		told := background(func() error { return readOne(soon(t), from).err })
		err := readOne(soon(t), to).err
		wantFailure(t, "Read", err, StatusMessageTooBig)
		wantError(t, "Read", err, ErrMessageTooBig)
		var ce *CloseError
		if err := <-told; !errors.As(err, &ce) || ce.Code != StatusMessageTooBig {
			t.Errorf("the sender reads %v", err)
		}
	})
}

// "Cancelling a read loses nothing", whatever the way of reading.
func TestTransports_CancelledReads(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		const messages = 150
		go func() {
			r := rand.New(rand.NewPCG(1, 2))
			for i := range messages {
				from.Write(t.Context(), BinaryMessage, fmt.Appendf(nil, "%d %s", i, make([]byte, r.IntN(20<<10))))
			}
		}()
		r := rand.New(rand.NewPCG(3, 4))
		for i := 0; i < messages; {
			ctx, cancel := context.WithTimeout(soon(t), time.Duration(r.IntN(300))*time.Microsecond)
			receive := waysToRead[[]string{"Read", "Messages"}[r.IntN(2)]]
			if r.IntN(4) == 0 { // a Reader belongs to its ctx
				receive, ctx = waysToRead["Reader"], soon(t)
			}
			_, p, err := receive(ctx, to)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				continue
			}
			if err != nil || !bytes.HasPrefix(p, fmt.Appendf(nil, "%d ", i)) {
				t.Fatalf("message %d: %.20q, %v", i, p, err)
			}
			i++
		}
	})
}

// "Cancelling a write that waits for its turn changes nothing"; Send does not wait for one (R25).
func TestTransports_CancelledWrites(t *testing.T) {
	eachWay(t, &Options{MaxPending: 1, MaxMessageSize: -1}, func(t *testing.T, from, to *Conn) {
		big := make([]byte, 24<<20)
		sent := background(func() error { return from.Write(soon(t), BinaryMessage, big) })
		until(t, "a Write is under way", func() bool { return from.Stats().MessagesWritten > 0 })
		taken := 0
		for from.Send(BinaryMessage, []byte("yes")) == nil && taken < 10 {
			taken++
		}
		wantError(t, "Send", from.Send(BinaryMessage, []byte("no")), ErrBacklog)
		ctx, cancel := context.WithTimeout(soon(t), 5*time.Millisecond)
		defer cancel()
		wantError(t, "Write", from.Write(ctx, BinaryMessage, []byte("no")), context.DeadlineExceeded)
		behind := background(func() error { return from.Write(soon(t), BinaryMessage, []byte("behind")) })
		if _, p, err := to.Read(soon(t)); err != nil || len(p) != len(big) {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
		for range taken {
			wantRead(t, to, BinaryMessage, "yes")
		}
		wantRead(t, to, BinaryMessage, "behind")
		if err := errors.Join(<-sent, <-behind); err != nil {
			t.Error(err)
		}
	})
}

func TestTransports_JSON(t *testing.T) {
	type point struct{ X, Y int }
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		from.Send(TextMessage, []byte("{"))
		if err := from.WriteJSON(soon(t), point{1, 2}); err != nil {
			t.Fatal(err)
		}
		var p point
		if err := to.ReadJSON(soon(t), &p); err == nil {
			t.Error("a { is no JSON")
		}
		if err := to.ReadJSON(soon(t), &p); err != nil || p != (point{1, 2}) {
			t.Errorf("%v, %v", p, err)
		}
	})
}

// reading reads in the background and returns the error it ends with.
func reading(c *Conn) <-chan error {
	return background(func() error {
		for {
			if _, _, err := c.Read(context.Background()); err != nil {
				return err
			}
		}
	})
}

// A84, A87.
func TestTransports_Ping(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		reading(from)
		reading(to)
		for range 10 {
			d, err := from.Ping(soon(t))
			if err != nil || d <= 0 {
				t.Fatal(d, err)
			}
		}
		if from.Stats().RTT <= 0 {
			t.Errorf("%+v", from.Stats())
		}
	})
}

func TestTransports_KeepAlive(t *testing.T) {
	eachTransport(t, &Options{KeepAlive: 20 * time.Millisecond}, func(t *testing.T, s, c *Conn) {
		ends := []<-chan error{reading(s), reading(c)}
		until(t, "pings are answered", func() bool { return s.Stats().RTT > 0 && c.Stats().RTT > 0 })
		for range 3 { // the silence between them kills neither
			before := s.Stats().BytesRead
			until(t, "further pings", func() bool { return s.Stats().BytesRead > before })
		}
		if err := s.Close(StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
		<-ends[0]
		wantError(t, "Read", <-ends[1], StatusNormalClosure)
	})
}

// The peer's silence is found out, while a read is at work: the peer does not read.
func TestTransports_KeepAliveOfSilentPeer(t *testing.T) {
	eachWay(t, &Options{KeepAlive: 30 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}, func(t *testing.T, from, _ *Conn) {
		wantLost(t, "Read", <-reading(from))
		wantError(t, "the cause", context.Cause(from.Context()), StatusAbnormalClosure)
	})
}

// A79, A81, A82, A96, A101, A111: the closing handshake, and what each side is told of it.
func TestTransports_Close(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		ended := reading(to)
		if err := from.Close(4321, "that is äll"); err != nil {
			t.Errorf("Close: %v", err)
		}
		for what, err := range map[string]error{"Read": <-ended, "the cause": context.Cause(to.Context()), "Ping": pingError(to)} {
			var ce *CloseError
			if !errors.As(err, &ce) || *ce != (CloseError{4321, "that is äll"}) {
				t.Errorf("of who was told, %s: %v", what, err)
			}
		}
		_, _, err := from.Read(soon(t))
		for what, err := range map[string]error{"Read": err, "the cause": context.Cause(from.Context()), "Ping": pingError(from),
			"Send": from.Send(BinaryMessage, nil), "Close": from.Close(1000, "")} {
			wantError(t, "of who closed, "+what, err, net.ErrClosed)
		}
		if err := to.Close(1000, ""); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close of who was told: %v", err)
		}
	})
}

func pingError(c *Conn) error {
	_, err := c.Ping(context.Background())
	return err
}

// Both begin, and each gets the other's close frame for an answer.
func TestTransports_CloseOfBoth(t *testing.T) {
	eachTransport(t, nil, func(t *testing.T, s, c *Conn) {
		of := background(func() error { return s.Close(StatusNormalClosure, "") })
		if err := errors.Join(c.Close(StatusGoingAway, ""), <-of); err != nil {
			t.Error(err)
		}
	})
}

// A close frame comes behind what was sent before, also when the closing side has not read all that was sent to it.
func TestTransports_CloseBehindMessages(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		to.Send(BinaryMessage, make([]byte, 100<<10)) // nobody reads it
		for i := range 50 {
			from.Send(TextMessage, fmt.Append(nil, i))
		}
		closed := background(func() error { return from.Close(StatusNormalClosure, "") })
		i := 0
		for m, err := range to.Messages(soon(t)) {
			if err != nil || string(m.Data) != fmt.Sprint(i) {
				t.Fatalf("message %d: %q, %v", i, m.Data, err)
			}
			i++
		}
		if err := <-closed; err != nil || i != 50 {
			t.Errorf("%d messages, and Close returned %v", i, err)
		}
	})
}

// "After CloseNow everything that waits returns net.ErrClosed"; the peer loses the connection (A100).
func TestTransports_CloseNow(t *testing.T) {
	eachWay(t, &Options{MaxPending: 1}, func(t *testing.T, from, to *Conn) {
		waits := map[string]<-chan error{"Read": reading(from), "Ping": background(func() error { return pingError(from) })}
		from.CloseNow()
		lost := reading(to) // not before: nobody answers the ping
		for what, err := range waits {
			wantError(t, what, <-err, net.ErrClosed)
		}
		wantError(t, "the cause", context.Cause(from.Context()), net.ErrClosed)
		wantLost(t, "Read", <-lost)
	})
}

func TestTransports_CloseNowUnblocksWrites(t *testing.T) {
	eachWay(t, &Options{MaxPending: 1}, func(t *testing.T, from, to *Conn) {
		var waits []<-chan error
		for range 3 {
			waits = append(waits, background(func() error { return from.Write(soon(t), BinaryMessage, make([]byte, 24<<20)) }))
		}
		until(t, "a Write is under way", func() bool { return from.Stats().MessagesWritten > 0 })
		waits = append(waits, background(func() error { return from.Close(1000, "") }))
		from.CloseNow()
		for _, err := range waits {
			wantError(t, "what waited", <-err, net.ErrClosed)
		}
	})
}

func TestTransports_CloseRead(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		ended := reading(from)
		ctx := to.CloseRead(t.Context())
		if _, err := from.Ping(soon(t)); err != nil {
			t.Errorf("in CloseRead a ping is answered: %v", err)
		}
		from.Send(BinaryMessage, []byte("data"))
		<-ctx.Done()
		wantError(t, "the end of CloseRead", context.Cause(to.Context()), StatusPolicyViolation)
		wantError(t, "who sent", <-ended, StatusPolicyViolation)
	})
}

// The connection beneath ends without a word (A100).
func TestTransports_PeerVanishes(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		lost := reading(to)
		ping := background(func() error { return pingError(to) })
		from.nc.Close()
		wantLost(t, "Read", <-lost)
		wantLost(t, "Ping", <-ping)
		wantError(t, "the cause", context.Cause(to.Context()), StatusAbnormalClosure)
		wantError(t, "Write", to.Write(soon(t), BinaryMessage, nil), StatusAbnormalClosure)
	})
}

// "true deadlines, io.EOF on 1000 and 1001".
func TestTransports_Stream(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, from, to *Conn) {
		w, r := from.Stream(BinaryMessage), to.Stream(BinaryMessage)
		b := make([]byte, 3)
		r.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		n, err := r.Read(b)
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		late := background(func() error { _, err := r.Read(make([]byte, 1)); return err })
		r.SetReadDeadline(time.Now().Add(-time.Second))
		wantError(t, "a Read whose deadline was moved", <-late, os.ErrDeadlineExceeded)
		r.SetReadDeadline(time.Time{})
		go func() {
			w.Write([]byte("hello, "))
			w.Write([]byte("world"))
			w.Close()
		}()
		p, err := io.ReadAll(r)
		if n != 0 || err != nil || string(p) != "hello, world" {
			t.Errorf("%d, %q, %v", n, p, err)
		}
	})
}

// A connection is not a request: ReadTimeout and WriteTimeout of the server do not end it.
func TestTransports_ServerTimeouts(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			start := startTCP
			if tr.name == "TLS" || tr.name == "HTTP2" {
				start = startTLS
			}
			const short = 50 * time.Millisecond
			s := start(t, Handler(nil, echoMessages), func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = short, short, short
			})
			c, err := Dial(soon(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: strings.HasPrefix(strings.ToLower(tr.name), "h")})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			<-time.After(4 * short)
			checkInterruptedEcho(t, c)
		})
	}
}

// A110: Shutdown says 1001 to all, waits for them, and lets nobody in any more.
func TestTransports_Shutdown(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			var g Group
			opts := &Options{Group: &g}
			var ended []<-chan error
			for range 4 {
				s, c := connectBy(t, tr, opts, nil)
				go s.Read(context.Background())
				ended = append(ended, reading(c))
			}
			if m, _ := NewPreparedMessage(TextMessage, []byte("soon")); g.Broadcast(m) != 4 {
				t.Error("a broadcast does not reach all")
			}
			if err := g.Shutdown(soon(t), StatusGoingAway, "restart"); err != nil || g.Len() != 0 {
				t.Errorf("%v, and %d are left", err, g.Len())
			}
			for _, err := range ended {
				wantError(t, "Read", <-err, StatusGoingAway)
			}
		})
	}
}

// A71, R52: everything at once, whatever ends it.
func TestTransports_Storm(t *testing.T) {
	for end, f := range stormEnds {
		t.Run(end, func(t *testing.T) {
			eachTransport(t, &Options{MaxPending: 32 << 10}, func(t *testing.T, s, c *Conn) {
				storms := []*sync.WaitGroup{storm(s, 1), storm(c, 101)}
				time.AfterFunc(20*time.Millisecond, func() { f(s, c) })
				for _, wg := range storms {
					wg.Wait()
				}
			})
		})
	}
}

func TestTransports_InOrder(t *testing.T) { eachWay(t, nil, sendInOrder) }
