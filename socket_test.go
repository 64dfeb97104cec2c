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
	"weak"
)

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
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	pinger := background(func() error { return pingError(limited, client) })
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

// Reads of one byte at a time, and reads of nothing between them.
func TestConn_Reads_InPiecesOfTheNetwork(t *testing.T) {
	for name, set := range map[string]func(f *faultyConn){
		"Any": func(f *faultyConn) {}, "OneByte": func(f *faultyConn) { f.most = 1 }, "ThreeBytes": func(f *faultyConn) { f.most = 3 },
		"Empty": func(f *faultyConn) { f.empty = 3 }, "OneByteAndEmpty": func(f *faultyConn) { f.most, f.empty = 1, 1 },
	} {
		inBubbleIn(t, name, func(t *testing.T) {
			a, b := memPipe()
			fa, fb := newFaultyConn(a), newFaultyConn(b)
			set(fa)
			set(fb)
			server, client := newPair(fa, fb)
			if got := converse(t, server, client); !slices.Equal(got, conversation) {
				t.Errorf("the server read %d messages: %.40q", len(got), got)
			}
		})
	}
}

// An error after byte k, for every k, on either side: messages arrive whole or not at all, no goroutine is left in the
// bubble, and both ends have ended.
func TestConn_Ends_WithErrorAfterEveryByte(t *testing.T) {
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
	server, client := net.Conn(faulty), b
	if !faultOfServer {
		faulty.Conn, server, client = b, a, faulty
	}
	faulty.budget.Store(k)
	s, c := newPair(server, client)
	got := converse(t, s, c)
	if len(got) > 3 || !slices.Equal(got, conversation[:len(got)]) {
		t.Errorf("after %d bytes the server has read %.200q", k, got)
	}
	for _, c := range []*Conn{s, c} {
		if c.Context().Err() == nil {
			t.Errorf("after %d bytes: a Conn lives", k)
		}
	}
	return faulty.budget.Load() > 0
}

// A net.Conn that returns (0, nil) for ever ends in an error, not in a spin.
func TestConn_Reads_NothingForEver(t *testing.T) {
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

// A net.Conn whose Write takes less than it was given and returns no error: the peer reads nothing but parts of the
// messages.
func TestConn_Writes_ByShortWrites(t *testing.T) {
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
					t.Errorf("the peer reads %v", f)
				}
			}
		}
	})
}

// The error of the network is reachable, and matches StatusAbnormalClosure.
func TestConn_Ends_WithErrorOfTheNetwork(t *testing.T) {
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

// A peer that has closed takes no more, but its close frame may still be unread: reads return it.
func TestConn_Reads_CloseFrameWhenWritesFail(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		a, b := memPipe()
		c, p := connectOver(t, &hookedConn{Conn: a, write: func([]byte) (int, error) { return 0, errFault }}, b, server)
		ended := reads(t, c)
		synctest.Wait()
		wantError(t, "Write", c.Write(patience(t), TextMessage, nil), errFault, StatusAbnormalClosure)
		p.send("81 01 61", closeHex(4000, "left"))
		wantError(t, "Read", <-ended, StatusCode(4000))
		wantError(t, "the next Write", c.Write(patience(t), TextMessage, nil), StatusCode(4000))
		p.expectEnd()
	})
}

// A context ends every wait: where a call cannot be interrupted by a deadline, the connection is closed.
func TestConn_Calls_UntilContextEndsWithoutDeadlines(t *testing.T) {
	calls := map[string]func(ctx context.Context, c *Conn) error{
		"Write": func(ctx context.Context, c *Conn) error { return c.Write(ctx, BinaryMessage, make([]byte, 300<<10)) },
	}
	for name, read := range waysToRead {
		if name == "OnMessage" {
			continue // takes no context
		}
		calls[name] = func(ctx context.Context, c *Conn) error { _, _, err := read(ctx, c); return err }
	}
	for name, call := range calls {
		eachRoleIn(t, name, func(t *testing.T, server bool) {
			near, far := memPipe()
			c, p := connectOver(t, channelConn{near}, far, server)
			wantAlive(t, c, p)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			wantError(t, name, returned(t, name, background(func() error { return call(ctx, c) })), context.DeadlineExceeded)
			took(t, name, start, time.Second)
			wantEnded(t, c)
			p.expectCut()
		})
	}
}

// A read deadline that cannot be moved once it has passed ends the connection, whether a context or KeepAlive has set
// it, and is not waited for again and again.
func TestConn_Reads_AfterDeadlineThatStaysPassed(t *testing.T) {
	for name, change := range map[string]func(*config){"Context": func(*config) {}, "KeepAlive": keepAlive} {
		eachRoleIn(t, name, func(t *testing.T, server bool) {
			near, far := memPipe()
			var passed atomic.Bool
			var late atomic.Int32 // reads after the deadline
			c, p := connectOver(t, &hookedConn{Conn: near, read: func(p []byte) (int, error) {
				if passed.Load() && late.Add(1) > spins {
					return 0, io.EOF
				} else if passed.Load() {
					return 0, os.ErrDeadlineExceeded
				}
				n, err := near.Read(p)
				passed.Store(errors.Is(err, os.ErrDeadlineExceeded))
				return n, err
			}}, far, server, change)
			if name == "Context" {
				cancelledRead(t, c)
				p.trySend("81 01 61")
			}
			wantLost(t, "Read", returned(t, "Read", background(func() error { return readOne(patience(t), c).err })))
			wantEnded(t, c)
			if late.Load() > spins {
				t.Error("Read spins")
			}
		})
	}
}

// wrappings are the wrappers that a listener or a dialer may put around a connection.
var wrappings = map[string]func(net.Conn) net.Conn{
	"Bare":    func(nc net.Conn) net.Conn { return nc },
	"Wrapped": func(nc net.Conn) net.Conn { return wrappedConn{nc} },
	"Layered": func(nc net.Conn) net.Conn { return &layeredConn{Conn: nc} },
	"Unwraps": func(nc net.Conn) net.Conn { return unwrappingConn{nc} },
	"Foreign": func(nc net.Conn) net.Conn { return foreignConn{nc} },
}

// eachWrapping runs f for a Conn of either role over a wrapped connection, plain or of TLS.
func eachWrapping(t *testing.T, f func(t *testing.T, c *Conn, p *rawPeer)) {
	t.Helper()
	certified()
	for wire, ends := range map[string]func(*testing.T) (server, client net.Conn){"Pipe": pipeEnds, "TLS": tlsEnds} {
		for name, wrap := range wrappings {
			eachRoleIn(t, wire+"/"+name, func(t *testing.T, server bool) {
				near, far := ends(t)
				if !server {
					near, far = far, near
				}
				c, p := connectOver(t, wrap(near), far, server)
				f(t, c, p)
			})
		}
	}
}

// Section 7.1.1: the server ends TCP first, and immediately, whatever the connection is wrapped in.
func TestServer_Closes_WrappedConnectionAtOnce(t *testing.T) {
	for name, wrap := range wrappings {
		for _, peerBegins := range []bool{true, false} {
			inBubbleIn(t, name, func(t *testing.T) {
				near, far := memPipe()
				c, p := connectOver(t, wrap(near), far, true)
				start := time.Now()
				closed := background(func() error {
					if !peerBegins {
						return c.Close(StatusNormalClosure, "")
					}
					c.Read(patience(t))
					return nil
				})
				synctest.Wait()
				p.send(closeHex(1000, ""))
				p.expectClose(StatusNormalClosure)
				p.expectEnd()
				took(t, "the end of TCP", start, 0)
				wantOK(t, "Close", <-closed)
			})
		}
	}
}

// A wrapper that counts connections relies on its own Close being called.
func TestConn_Closes_TheWrapperItself(t *testing.T) {
	for name, end := range endings {
		eachRoleIn(t, name, func(t *testing.T, server bool) {
			near, far := memPipe()
			layered := &layeredConn{Conn: near}
			c, p := connectOver(t, layered, far, server)
			end(c, p)
			pass(time.Minute)
			if layered.closes.Load() == 0 {
				t.Error("the wrapper was not closed")
			}
		})
	}
}

// The peer reads our close frame although it had sent more than we read, also where a wrapper cannot close one half of
// TCP: unread bytes would reset the connection.
func TestConn_Closes_TCPOfPeerWithMoreToSay(t *testing.T) {
	for name, wrap := range wrappings {
		for what, first := range map[string]string{"Failure": "83 00", "Close": closeHex(1002, "")} {
			t.Run(name+"/"+what, func(t *testing.T) {
				eachRoleOutside(t, func(t *testing.T, server bool) {
					for _, now := range []bool{false, true} {
						a, b := tcpEnds(t)
						c, p := connectOver(t, wrap(a), b, server)
						p.send(first, frameHex(0x82, make([]byte, 100<<10)), frameHex(0x82, make([]byte, 100<<10)))
						wantError(t, "Read", readOne(t.Context(), c).err, StatusProtocolError)
						if now {
							c.CloseNow()
						}
						p.expectClose(StatusProtocolError)
					}
				})
			})
		}
	}
}

// Many connections over TCP that end in every way leave as many goroutines and sockets as before.
func TestConn_Ends_AndLeavesNothingBehind(t *testing.T) {
	before := resources()
	for range 5 {
		for name, end := range endings {
			a, b := tcpEnds(t)
			short := func(cfg *config) { cfg.closeTimeout, cfg.keepAlive = 30*time.Millisecond, time.Hour }
			t.Run(name, func(t *testing.T) {
				c, p := connectOver(t, a, b, true, short)
				end(c, p)
				if c.Context().Err() == nil {
					t.Error("the Conn lives")
				}
				p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.Copy(io.Discard, p.in); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the descriptor was not released")
				}
			})
			b.Close()
		}
	}
	after := resources()
	for limit := time.Now().Add(20 * time.Second); after[0] > before[0] || after[1] > before[1]; after = resources() {
		if time.Now().After(limit) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("goroutines and sockets: %v before, %v after\n%s", before, after, stacks[:runtime.Stack(stacks, true)])
		}
		pass(10 * time.Millisecond)
	}
}

// endings are ways in which a connection ends, in a bubble or over TCP.
var endings = map[string]func(c *Conn, p *rawPeer){
	"CloseNow":    func(c *Conn, p *rawPeer) { c.CloseNow() },
	"CloseSilent": func(c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") },
	"CloseAnswered": func(c *Conn, p *rawPeer) {
		p.send(closeHex(1000, ""))
		c.Close(StatusNormalClosure, "")
	},
	"Peer":    func(c *Conn, p *rawPeer) { p.send(closeHex(1000, "")); c.Read(context.Background()) },
	"TooMuch": func(c *Conn, p *rawPeer) { p.send("82 7f 0000000000100001"); c.Read(context.Background()) },
	"Failure": func(c *Conn, p *rawPeer) { p.send("83 00"); c.Read(context.Background()) },
	"Lost":    func(c *Conn, p *rawPeer) { p.nc.Close(); c.Read(context.Background()) },
	"HalfFrame": func(c *Conn, p *rawPeer) {
		p.send("82 7e 0100 61")
		p.nc.Close()
		c.Read(context.Background())
	},
	"CloseRead": func(c *Conn, p *rawPeer) {
		ctx := c.CloseRead(context.Background())
		p.send("81 00")
		<-ctx.Done()
	},
	"Messages": func(c *Conn, p *rawPeer) {
		p.send("81 00", "82 00", closeHex(1001, ""))
		collect(c, context.Background())
	},
	"Ping": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c.Ping(ctx)
		c.CloseNow()
	},
	"CancelledRead": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		c.Read(ctx)
		c.Close(StatusGoingAway, "")
	},
	"CancelledWrite": func(c *Conn, p *rawPeer) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		c.Write(ctx, BinaryMessage, make([]byte, 64<<20))
		c.CloseNow()
	},
	"OpenWriterAndReader": func(c *Conn, p *rawPeer) {
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

// wantCollected has f make Conns that have ended, and demands that they are garbage.
func wantCollected(t *testing.T, f func() *Conn) {
	t.Helper()
	const conns = 50
	var ended []weak.Pointer[Conn]
	for range conns {
		ended = append(ended, weak.Make(f()))
	}
	until(t, "few of those that ended are held", func() bool {
		runtime.GC()
		held := 0
		for _, c := range ended {
			if c.Value() != nil {
				held++
			}
		}
		return held <= 3
	})
}

// The contexts of reads and writes, and of a Writer that was never closed, do not keep a Conn alive that has ended.
func TestConn_Ends_AndIsHeldByNoContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, use := range map[string]func(s, c *Conn){
		"Read": func(s, c *Conn) {
			c.Send(BinaryMessage, []byte("x"))
			s.Read(ctx)
			go c.Close(StatusNormalClosure, "")
			s.Read(ctx)
		},
		"Write":                              func(s, _ *Conn) { s.Write(ctx, BinaryMessage, make([]byte, 20<<10)) },
		"Writer of which nothing is written": func(s, _ *Conn) { s.Writer(ctx, BinaryMessage) },
		"Writer of which nothing is out": func(s, _ *Conn) {
			w, _ := s.Writer(ctx, BinaryMessage)
			w.Write(make([]byte, 10))
		},
		"Writer of which frames are out": func(s, _ *Conn) {
			w, _ := s.Writer(ctx, BinaryMessage)
			w.Write(make([]byte, 40<<10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantCollected(t, func() *Conn {
				s, c := Pipe(nil, nil)
				defer c.CloseNow()
				use(s, c)
				s.CloseNow()
				return s
			})
		})
	}
}

// Nor does the context of a Write that succeeds after the connection has ended.
func TestConn_Ends_WhileWriteIsAboutToSucceed(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ctx.Done() // makes its channel outside of the bubbles
	defer func() {
		if !t.Failed() { // or it would call into a bubble that is over
			cancel()
		}
	}()
	wantCollected(t, func() (c *Conn) {
		inBubble(t, func(t *testing.T) {
			a, b := memPipe()
			held, free := make(chan struct{}, 10), make(chan struct{})
			c, _ = connectOver(t, &hookedConn{Conn: a, write: func(p []byte) (int, error) {
				held <- struct{}{}
				<-free
				return len(p), nil // although the connection has ended
			}}, b, true)
			wrote := background(func() error { return c.Write(ctx, BinaryMessage, make([]byte, 20<<10)) })
			<-held
			c.CloseNow()
			synctest.Wait()
			close(free)
			<-wrote
		})
		return c
	})
}
