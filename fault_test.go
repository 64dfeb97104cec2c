package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Connections that do not do what they should.

// A faultyConn is a net.Conn that is no socket, and fails in ways that can be chosen.
type faultyConn struct {
	net.Conn
	most   int          // bytes of a Read; 0: any number
	empty  int          // each Read is preceded by so many of (0, nil)
	short  int          // bytes that a Write takes, which then says nothing of the rest; 0: all
	budget atomic.Int64 // bytes either way before errFault; negative: none
	seen   int
}

var errFault = errors.New("a fault")

func newFaultyConn(nc net.Conn) *faultyConn {
	f := &faultyConn{Conn: nc}
	f.budget.Store(1 << 62)
	return f
}

func (f *faultyConn) Read(p []byte) (int, error) {
	if f.seen++; f.empty > 0 && f.seen%(f.empty+1) != 0 {
		return 0, nil
	}
	if f.most > 0 {
		p = p[:min(len(p), f.most)]
	}
	left := f.budget.Load()
	if left <= 0 {
		return 0, errFault
	}
	n, err := f.Conn.Read(p[:min(int64(len(p)), left)])
	f.budget.Add(int64(-n))
	return n, err
}

func (f *faultyConn) Write(p []byte) (int, error) {
	left := min(int64(len(p)), max(0, f.budget.Load()))
	if f.short > 0 {
		n, _ := f.Conn.Write(p[:min(len(p), f.short)])
		return n, nil
	}
	n, err := f.Conn.Write(p[:left])
	f.budget.Add(int64(-n))
	if err == nil && n < len(p) {
		err = errFault
	}
	return n, err
}

// converse has two Conns exchange messages of all kinds, and close. It returns what the server read.
func converse(t *testing.T, server, client *Conn) []string {
	ctx := patience(t)
	serverDone := background(func() []string {
		got, _ := collect(server, ctx)
		server.Write(ctx, TextMessage, []byte("late"))
		server.Close(StatusNormalClosure, "")
		return got
	})
	client.Write(ctx, TextMessage, []byte("Hello"))
	client.Send(BinaryMessage, pattern(300))
	if w, err := client.Writer(ctx, TextMessage); err == nil {
		io.WriteString(w, "κό")
		io.WriteString(w, "σμε")
		w.Close()
	}
	pinger := background(func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.Ping(ctx)
		return err
	})
	for range 2 {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		client.Read(ctx)
		cancel()
	}
	<-pinger
	client.Close(StatusNormalClosure, "bye")
	got := <-serverDone
	client.CloseNow()
	server.CloseNow()
	return got
}

var conversation = []string{"1:Hello", "2:" + string(pattern(300)), "1:κόσμε"}

func newPair(a, b net.Conn) (server, client *Conn) {
	cfg := config{terms: terms{server: true, closeTimeout: testCloseTimeout, writeTimeout: testWriteTimeout, maxPending: 1 << 20}, maxMessage: 1 << 20}
	server = newConn(a, cfg)
	cfg.server = false
	return server, newConn(b, cfg)
}

// R24's half: one byte at a time, (0, nil) in between.
func TestReceivesInPieces(t *testing.T) {
	for name, set := range map[string]func(f *faultyConn){
		"Any": func(f *faultyConn) {}, "OneByte": func(f *faultyConn) { f.most = 1 }, "ThreeBytes": func(f *faultyConn) { f.most = 3 },
		"Empty": func(f *faultyConn) { f.empty = 3 }, "OneByteAndEmpty": func(f *faultyConn) { f.most, f.empty = 1, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := memPipe()
				fa, fb := newFaultyConn(a), newFaultyConn(b)
				set(fa)
				set(fb)
				server, client := newPair(fa, fb)
				if got := converse(t, server, client); !slices.Equal(got, conversation) {
					t.Errorf("the server read %d messages: %.40q", len(got), got)
				}
			})
		})
	}
}

// An error after byte k, for every k, on either side: messages are whole or not there, no goroutine is left in the
// bubble, and both ends know.
func TestReceivesAndSendsWithErrorAfterEveryByte(t *testing.T) {
	for _, faultOfServer := range []bool{true, false} {
		t.Run("FaultOf"+roleName(faultOfServer), func(t *testing.T) {
			for k, whole := int64(0), false; !whole; k++ {
				inBubble(t, func(t *testing.T) { whole = converseUntil(t, faultOfServer, k) })
				if k > 5000 {
					t.Fatal("the conversation does not end")
				}
			}
		})
	}
}

// converseUntil returns whether the conversation was over before k bytes.
func converseUntil(t *testing.T, faultOfServer bool, k int64) bool {
	a, b := memPipe()
	faulty := newFaultyConn(a)
	if !faultOfServer {
		faulty.Conn = b
	}
	faulty.budget.Store(k)
	server, client := newPair(faulty, b)
	if !faultOfServer {
		server, client = newPair(a, faulty)
	}
	got := converse(t, server, client)
	if len(got) > 3 || !slices.Equal(got, conversation[:len(got)]) {
		t.Errorf("after %d bytes the server has read %.200q", k, got)
	}
	for _, c := range []*Conn{server, client} {
		if c.Context().Err() == nil {
			t.Errorf("after %d bytes: a Conn lives", k)
		}
	}
	return faulty.budget.Load() > 0
}

// R3: a net.Conn that returns (0, nil) for ever ends in an error, not in a spin.
func TestReceivesNothingForEver(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		faulty := newFaultyConn(a)
		faulty.empty = 1 << 30
		c, _ := connectOver(t, faulty, b, server)
		err := readOne(patience(t), c).err
		wantLost(t, "Read", err)
		wantError(t, "Read", err, io.ErrNoProgress)
	})
}

// A Write that took less than it was given and says nothing: what stands on the wire is a part of what should, or
// all of it.
func TestSendsByShortWrites(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, short := range []int{1, 3, 100} {
			a, b := memPipe()
			faulty := newFaultyConn(a)
			faulty.short = short
			c, p := connectOver(t, faulty, b, server)
			c.Write(patience(t), BinaryMessage, pattern(500))
			c.Write(patience(t), BinaryMessage, pattern(20000))
			c.CloseNow()
			for _, n := range []int{500, 20000} {
				f, err := readFrame(p.in, server)
				if err != nil {
					break
				}
				if !bytes.Equal(f.payload, pattern(n)) {
					t.Errorf("R29, R50: the peer reads %v", f)
				}
			}
		}
	})
}

// The error of the network is reachable, and matches 1006.
func TestReceivesErrorOfNetwork(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		faulty := newFaultyConn(a)
		faulty.budget.Store(4)
		c, p := connectOver(t, faulty, b, server)
		p.send("82 05 48656c6c6f")
		err := readOne(patience(t), c).err
		wantLost(t, "Read", err)
		wantError(t, "Read", err, errFault)
		wantError(t, "Write", c.Write(patience(t), TextMessage, nil), err)
		wantError(t, "Close", c.Close(StatusNormalClosure, ""), err)
		wantError(t, "context.Cause", context.Cause(c.Context()), errFault)
	})
}

// A brokenConn can be read, but not be written.
type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { return 0, errFault }

// A peer that has closed takes no more, but its close frame may stand to be read: that is what a read returns.
func TestReceivesCloseWhenWritesFail(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		c, p := connectOver(t, brokenConn{a}, b, server)
		ended := reads(t, c)
		synctest.Wait()
		wantError(t, "Write", c.Write(patience(t), TextMessage, nil), errFault, StatusAbnormalClosure)
		p.send("81 01 61", closeHex(4000, "left"))
		wantError(t, "Read", <-ended, StatusCode(4000))
		p.expectEnd()
	})
}

// tcpEnds returns the two ends of a TCP connection on the loopback.
func tcpEnds(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A96: the peer reads our close frame although it had sent more than we read; over TCP unread bytes would reset it.
func TestSendsCloseOverTCPToPeerWithMoreToSay(t *testing.T) {
	for _, server := range []bool{true, false} {
		t.Run(roleName(server), func(t *testing.T) {
			for name, first := range map[string]string{"Failure": "83 00", "Close": closeHex(1002, "")} {
				a, b := tcpEnds(t)
				c, p := connectOver(t, a, b, server)
				p.send(first)
				p.send(frameHex(0x82, make([]byte, 100<<10)), frameHex(0x82, make([]byte, 100<<10)))
				wantError(t, "Read", readOne(context.Background(), c).err, StatusProtocolError)
				if f, err := readFrame(p.in, server); err != nil {
					t.Errorf("%s: the peer reads %v", name, err)
				} else {
					p.isClose(f, StatusProtocolError)
				}
				b.Close()
			}
		})
	}
}

// Everything that is blocked over TCP ends with CloseNow and with Close.
func TestReceivesAndSendsBlockedOverTCP(t *testing.T) {
	for name, end := range map[string]func(c *Conn){
		"CloseNow": func(c *Conn) { c.CloseNow() }, "Close": func(c *Conn) { c.Close(StatusNormalClosure, "") },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpEnds(t)
			c, _ := connectOver(t, a, b, true, func(cfg *config) { cfg.closeTimeout = 50 * time.Millisecond })
			var all []<-chan error
			for range 3 {
				all = append(all, background(func() error { return readOne(context.Background(), c).err }))
				all = append(all, background(func() error { _, err := c.Ping(context.Background()); return err }))
				all = append(all, background(func() error { return c.Write(context.Background(), BinaryMessage, make([]byte, 64<<20)) }))
			}
			time.AfterFunc(10*time.Millisecond, func() { end(c) })
			for _, err := range all {
				wantError(t, "a blocked call", <-err, net.ErrClosed)
			}
		})
	}
}

// R53 and "nothing a peer sends leaves a goroutine or descriptor behind": many connections over TCP that end in
// every way, then as many goroutines and descriptors as before.
func TestLeavesNothingBehindOverTCP(t *testing.T) {
	before := resources()
	for range 5 {
		for name, end := range endings {
			a, b := tcpEnds(t)
			short := func(cfg *config) { cfg.closeTimeout, cfg.keepAlive = 30*time.Millisecond, time.Hour }
			t.Run(name, func(t *testing.T) {
				c, p := connectOver(t, a, b, true, short)
				end(t, c, p)
				if c.Context().Err() == nil {
					t.Error("the Conn lives")
				}
				p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.Copy(io.Discard, p.in); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("R53: the descriptor was not released")
				}
			})
			b.Close()
		}
	}
	wait, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for after := resources(); after[0] > before[0] || after[1] > before[1]; after = resources() {
		select {
		case <-wait.Done():
			stacks := make([]byte, 1<<20)
			t.Fatalf("goroutines and sockets: %v before, %v after\n%s", before, after, stacks[:runtime.Stack(stacks, true)])
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var endings = map[string]func(t *testing.T, c *Conn, p *rawPeer){
	"CloseNow":    func(t *testing.T, c *Conn, p *rawPeer) { c.CloseNow() },
	"CloseSilent": func(t *testing.T, c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") },
	"CloseAnswered": func(t *testing.T, c *Conn, p *rawPeer) {
		p.send(closeHex(1000, ""))
		c.Close(StatusNormalClosure, "")
	},
	"Peer":    func(t *testing.T, c *Conn, p *rawPeer) { p.send(closeHex(1000, "")); c.Read(context.Background()) },
	"Failure": func(t *testing.T, c *Conn, p *rawPeer) { p.send("83 00"); c.Read(context.Background()) },
	"Lost":    func(t *testing.T, c *Conn, p *rawPeer) { p.nc.Close(); c.Read(context.Background()) },
	"HalfFrame": func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("82 7e 0100 61")
		p.nc.Close()
		c.Read(context.Background())
	},
	"CloseRead": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx := c.CloseRead(context.Background())
		p.send("81 00")
		<-ctx.Done()
	},
	"Messages": func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("81 00", "82 00", closeHex(1001, ""))
		collect(c, context.Background())
	},
	"Ping": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c.Ping(ctx)
		c.CloseNow()
	},
	"CancelledRead": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c.Read(ctx)
		c.Close(StatusGoingAway, "")
	},
	"CancelledWrite": func(t *testing.T, c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		c.Write(ctx, BinaryMessage, make([]byte, 64<<20))
		c.CloseNow()
	},
	"OpenWriterAndReader": func(t *testing.T, c *Conn, p *rawPeer) {
		p.send("01 01 61")
		c.Reader(context.Background())
		c.Writer(context.Background(), TextMessage)
		c.Close(StatusGoingAway, "")
	},
}

// resources counts goroutines and, where /proc tells, open sockets.
func resources() [2]int {
	sockets := 0
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	return [2]int{runtime.NumGoroutine(), sockets}
}
