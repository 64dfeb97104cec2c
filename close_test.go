package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// Closing: codes, who begins, what Close returns, bounds.

// A106, A107, A108: every status code, in the peer's close frame and given to Close.
func TestReceivesStatusCodes(t *testing.T) {
	for _, server := range []bool{true, false} {
		t.Run(roleName(server), func(t *testing.T) {
			for _, code := range statusCodes() {
				s := &scriptConn{pieces: [][]byte{towards(server, closeHex(code, "why"))}, done: make(chan struct{})}
				c := newConn(s, config{terms: terms{server: server, closeTimeout: time.Second, maxPending: 100}, maxMessage: 100})
				err := readOne(context.Background(), c).err
				got, byPeer := codeOf(t, err)
				want := outcome{code: StatusProtocolError}
				if mayBeSent(uint16(code)) {
					want = outcome{code: code, byPeer: true}
				}
				if got != want.code || byPeer != want.byPeer {
					t.Errorf("%d: %v", code, err)
				}
				checkAnswers(t, s.written(t), server, want)
				c.CloseNow()
			}
		})
	}
}

// statusCodes returns all up to 5100, and some beyond.
func statusCodes() []StatusCode {
	codes := []StatusCode{8192, 10000, 32767, 32768, math.MaxUint16}
	for code := range StatusCode(5100) {
		if !raceEnabled || code < 1 || code%1000 < 20 || code%1000 > 995 {
			codes = append(codes, code)
		}
	}
	return codes
}

// "A code that may not be sent, or a reason over 123 bytes or not UTF-8, is an error: nothing is sent and the
// connection stays open." A75, A106, A107
func TestSendsNoWrongClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, code := range statusCodes() {
			if mayBeSent(uint16(code)) {
				continue
			}
			if err := c.Close(code, ""); err == nil {
				t.Fatalf("Close with %d", code)
			}
		}
		for _, reason := range []string{strings.Repeat("x", 124), strings.Repeat("x", 70000), strings.Repeat("€", 42), "\xff", "a\xe2\x82", "\xed\xa0\x80"} {
			if err := c.Close(StatusNormalClosure, reason); err == nil {
				t.Errorf("Close with the reason %.20q", reason)
			}
		}
		p.quiet()
		if err := c.Write(patience(t), TextMessage, []byte("a")); err != nil {
			t.Error(err)
		}
		p.expect("81 01 61")
		p.send("81 01 62")
		wantRead(t, c, TextMessage, "b")
	})
}

// A107, A108: the neighbours.
func TestSendsClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, want := range []CloseError{
			{1000, ""}, {1000, "bye"}, {1001, "€"}, {1002, ""}, {1003, ""}, {1007, ""}, {1008, ""}, {1009, ""}, {1011, ""},
			{1012, ""}, {1013, ""}, {1014, ""}, {3000, ""}, {3999, ""}, {4000, ""}, {4999, strings.Repeat("x", 123)},
			{4000, strings.Repeat("€", 41)}, {4001, "a\x00b"},
		} {
			c, p := connectRaw(t, server)
			closed := background(func() error { return c.Close(want.Code, want.Reason) })
			p.expect(closeHex(want.Code, want.Reason))
			p.send(closeHex(want.Code, ""))
			p.expectEndOfClosing()
			if err := <-closed; err != nil {
				t.Errorf("Close with %v: %v", want, err)
			}
		}
	})
}

// expectEndOfClosing demands that a server lets go of the connection, and lets go of it before a client (A81, A97).
func (p *rawPeer) expectEndOfClosing() {
	p.t.Helper()
	start := time.Now()
	if !p.server {
		p.quiet()
		p.nc.Close()
		return
	}
	p.expectEnd()
	if d := time.Since(start); d > 0 {
		p.t.Errorf("A81: the server let go after %v", d)
	}
}

// A76, A77: close frames that are refused, and those beside them.
func TestReceivesCloseFrames(t *testing.T) {
	rows := []struct {
		name, frame string
		want        outcome
		reason      string
	}{
		{"Empty", "88 00", outcome{code: 1005, byPeer: true}, ""}, // A101
		{"OneByte", "88 01 03", outcome{code: 1002}, ""},
		{"Code", "88 02 03e8", outcome{code: 1000, byPeer: true}, ""},
		{"Reason", closeHex(1001, "κόσμε"), outcome{code: 1001, byPeer: true}, "κόσμε"},
		{"ReasonOf123", closeHex(4000, strings.Repeat("x", 123)), outcome{code: 4000, byPeer: true}, strings.Repeat("x", 123)},
		{"ReasonOf124", closeHex(4000, strings.Repeat("x", 124)), outcome{code: 1002}, ""},
		{"ReasonNoUTF8", closeHex(1000, "\xff"), outcome{code: 1007}, ""},
		{"ReasonCut", closeHex(1000, "a\xe2\x82"), outcome{code: 1007}, ""},
		{"ReasonSurrogate", closeHex(1000, "\xed\xa0\x80"), outcome{code: 1007}, ""},
		{"Code1005", closeHex(1005, ""), outcome{code: 1002}, ""},
		{"Code1006", closeHex(1006, ""), outcome{code: 1002}, ""},
		{"Code1015", closeHex(1015, ""), outcome{code: 1002}, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send(row.frame)
				err := readOne(patience(t), c).err
				var ce *CloseError
				if row.want.byPeer != errors.As(err, &ce) || ce != nil && *ce != (CloseError{row.want.code, row.reason}) {
					t.Errorf("Read: %v", err)
				}
				wantError(t, "Read", err, row.want.code)
				if !row.want.byPeer {
					wantFailure(t, "Read", err, row.want.code)
				}
				p.expectClose(row.want.code) // A79
				if row.want.byPeer {
					p.expectEndOfClosing()
				} else {
					p.expectEnd()
				}
			})
		})
	}
}

// A79: the answer goes out as soon as a read sees the frame, and repeats the code; an empty one is answered empty.
// After it every read, write and Ping returns the *CloseError, and Close returns nil: both frames were exchanged.
func TestReceivesCloseThenCloses(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send(closeHex(4321, "because"))
		err := readOne(patience(t), c).err
		p.expectClose(4321)
		wantSticky(t, c, err)
		_, perr := c.Ping(patience(t))
		for i, err := range []error{err, c.Send(TextMessage, nil), perr, context.Cause(c.Context())} {
			var ce *CloseError
			if !errors.As(err, &ce) || *ce != (CloseError{4321, "because"}) {
				t.Errorf("error %d: %v", i, err)
			}
		}
		if err := c.Close(StatusNormalClosure, ""); err != nil {
			t.Errorf("Close: %v", err)
		}
		wantError(t, "Close again", c.Close(StatusNormalClosure, ""), net.ErrClosed)
		p.expectEnd() // A111: no second frame
	})
}

// A83: what comes after the peer's close frame is not delivered and not answered, garbage or not.
func TestReceivesNothingAfterClose(t *testing.T) {
	for name, after := range map[string][]string{
		"Message": {"81 01 61"}, "Ping": {"89 01 61"}, "Close": {closeHex(1002, "")}, "Garbage": {"ff 7f ffffffffffffffff"},
		"Half": {"81 7e 0100 61"},
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				p.send(append([]string{"81 01 7a", closeHex(1000, "")}, after...)...)
				wantRead(t, c, TextMessage, "z")
				wantError(t, "Read", readOne(patience(t), c).err, StatusNormalClosure)
				p.expectClose(StatusNormalClosure)
				p.expectEnd()
				wantError(t, "Read", readOne(patience(t), c).err, StatusNormalClosure)
			})
		})
	}
}

// A99: nothing behind the frame that failed the connection is processed.
func TestReceivesNothingAfterFailure(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("83 01 61", "89 01 61", "81 01 61", closeHex(1000, ""))
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
		p.expectClose(StatusProtocolError)
		p.expectEnd()
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
		err := c.Close(StatusNormalClosure, "") // "the connection's error when it had failed"
		wantFailure(t, "Close", err, StatusProtocolError)
		wantFailure(t, "context.Cause", context.Cause(c.Context()), StatusProtocolError)
	})
}

// A failure whose reason does not fit is told by its code (A75).
func TestSendsFailureWithLongReason(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		c.fail(&ProtocolError{StatusPolicyViolation, strings.Repeat("x", 124)})
		p.expectClose(StatusPolicyViolation)
		p.expectEnd()
	})
}

// A78: after Close every call returns net.ErrClosed, and nothing more is sent.
func TestSendsNothingAfterClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		reading := background(func() readResult { return readOne(patience(t), c) })
		pending(t, "Read", reading)
		closed := background(func() error { return c.Close(StatusGoingAway, "off") })
		p.expect(closeHex(1001, "off"))
		_, werr := c.Writer(patience(t), TextMessage)
		for i, err := range []error{c.Write(patience(t), TextMessage, []byte("a")), c.Send(TextMessage, []byte("a")), werr} {
			wantError(t, fmt.Sprint("write ", i), err, net.ErrClosed)
		}
		p.send(closeHex(1001, ""))
		if server {
			p.expectEnd()
		}
		synctest.Wait() // a Close before the frame is out would abort a stream of HTTP/2
		p.nc.Close()
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
		wantError(t, "Read", (<-reading).err, net.ErrClosed)
		wantError(t, "Read", readOne(patience(t), c).err, net.ErrClosed)
		wantError(t, "context.Cause", context.Cause(c.Context()), net.ErrClosed)
		_, perr := c.Ping(patience(t))
		wantError(t, "Ping", perr, net.ErrClosed)
	})
}

// Close reads by itself: it passes over messages.
func TestSendsCloseWithDataToCome(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		go p.trySend("81 01 61", frameHex(2, make([]byte, 200<<10)), "80 00", "81 00", closeHex(1000, ""))
		if err := c.Close(StatusNormalClosure, ""); err != nil {
			t.Errorf("Close: %v", err)
		}
		p.expectClose(StatusNormalClosure)
		p.expectEnd()
	})
}

// Data that the other end was sending does not count against the limit or the rules of text any more.
func TestSendsCloseWithLimitPassed(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxMessage = 10 })
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.send("81 05 48656c6c6f", closeHex(1000, ""))
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// Both ends close at the same time: one frame from each.
func TestSendsAndReceivesCloseAtOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send(closeHex(1001, "me too"))
		if err := c.Close(StatusNormalClosure, "me"); err != nil {
			t.Errorf("Close: %v", err)
		}
		p.expect(closeHex(1000, "me"))
		p.expectEnd()
	})
}

// "An error matching os.ErrDeadlineExceeded when the peer did not answer in CloseTimeout": the bound is one for all,
// whatever the peer sends meanwhile. R53
func TestSendsCloseToPeerThatDoesNotAnswer(t *testing.T) {
	frames := map[string][]string{
		"Silent": nil, "Messages": {"81 01 61"}, "Pings": {"89 00"}, "Fragments": {"02 00", "00 00"},
		"Drip": {frameHex(0x82, make([]byte, 120))},
	}
	for name, frames := range frames {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				start := time.Now()
				closed := background(func() error { return c.Close(StatusNormalClosure, "") })
				p.expectClose(StatusNormalClosure)
				go p.dripFor(time.Minute, frames)
				wantError(t, "Close", <-closed, os.ErrDeadlineExceeded)
				if d := time.Since(start); d != testCloseTimeout {
					t.Errorf("Close took %v", d)
				}
				p.expectPongsAndEnd()
				wantError(t, "Read", readOne(patience(t), c).err, net.ErrClosed)
			})
		})
	}
}

// dripFor sends frames for a while, the last one ever again; a single one byte by byte.
func (p *rawPeer) dripFor(d time.Duration, frames []string) {
	ctx, cancel := context.WithTimeout(p.t.Context(), d)
	defer cancel()
	for i := 0; ctx.Err() == nil; i++ {
		if len(frames) > 0 {
			b := towards(p.server, frames[min(i, len(frames)-1)])
			if len(b) > 100 {
				b = b[min(i, len(b)-1)%len(b):][:1]
			}
			p.nc.Write(b)
		}
		select {
		case <-ctx.Done():
		case <-time.After(400 * time.Millisecond):
		}
	}
}

// expectPongsAndEnd is expectEnd where pings were sent before the peer's close frame (A84).
func (p *rawPeer) expectPongsAndEnd() {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(time.Hour))
	for {
		f, err := readFrame(p.in, p.server)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				p.t.Fatal("the Conn does not let go of the connection")
			}
			return
		}
		if f.first != 0x8a {
			p.t.Fatalf("the peer reads %v, want the end", f)
		}
	}
}

// A84: "unless it already received a Close frame" - a ping that comes after our close frame and before the peer's
// is answered; section 5.5.1 forbids data frames only.
func TestReceivesPingAfterOurClose(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.send("89 02 6869")
		p.expect("8a 02 6869")
		p.send(closeHex(1000, ""), "89 00")
		p.expectEnd()
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// A80, R53: a peer that does not even take our close frame is cut off at the bound.
func TestSendsCloseToPeerThatReadsNothing(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		blocked := block(t, c)
		start := time.Now()
		err := c.Close(StatusNormalClosure, "")
		wantError(t, "Close", err, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != testCloseTimeout {
			t.Errorf("Close took %v", d)
		}
		wantError(t, "Write", <-blocked, net.ErrClosed)
		if f, err := readFrame(p.in, server); err == nil {
			t.Errorf("the peer reads %v", f)
		}
	})
}

// A100's neighbour: the connection ends while Close waits. Without the peer's frame it was not closed cleanly.
func TestSendsCloseToPeerThatGoes(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.nc.Close()
		if err := <-closed; err == nil {
			t.Error("Close: nil, though the peer sent no close frame")
		}
	})
}

// A82, A98: a client waits for the server to end TCP, but not for longer than the bound; a server does not wait.
func TestSendsCloseAndWaitsForEndOfTCP(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		start := time.Now()
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.send(closeHex(1000, ""))
		if !server {
			pass(testCloseTimeout - time.Second)
			p.quiet()
		}
		p.expectEnd()
		if d := time.Since(start); server && d != 0 || d > testCloseTimeout {
			t.Errorf("A81, A98: the connection was let go after %v", d)
		}
		if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// "CloseNow: at once; unblocks everything, a running Close too." Everything that waits returns net.ErrClosed.
func TestSendsCloseNow(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		waiting := map[string]<-chan error{
			"Read":  background(func() error { return readOne(patience(t), c).err }),
			"Ping":  background(func() error { _, err := c.Ping(patience(t)); return err }),
			"Read2": background(func() error { return readOne(patience(t), c).err }),
		}
		synctest.Wait()
		p.next()
		waiting["Write"] = block(t, c)
		waiting["Close"] = background(func() error { return c.Close(StatusNormalClosure, "") })
		synctest.Wait()
		start := time.Now()
		if err := c.CloseNow(); err != nil {
			t.Errorf("CloseNow: %v", err)
		}
		for what, err := range waiting {
			wantError(t, what, <-err, net.ErrClosed)
		}
		wantError(t, "context.Cause", context.Cause(c.Context()), net.ErrClosed)
		wantError(t, "Close after CloseNow", c.Close(StatusNormalClosure, ""), net.ErrClosed)
		c.CloseNow()
		if d := time.Since(start); d > 0 {
			t.Errorf("CloseNow took %v", d)
		}
		p.nc.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := io.Copy(io.Discard, p.in); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is still there")
		}
	})
}

// A111: of many that close one does, the others get net.ErrClosed; there is one frame.
func TestSendsCloseOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		const n = 10
		all := make(chan error, n)
		for range n {
			go func() { all <- c.Close(4000, "") }()
		}
		p.expectClose(4000)
		p.send(closeHex(4000, ""))
		p.nc.(interface{ CloseWrite() error }).CloseWrite()
		won := 0
		for range n {
			if err := <-all; err == nil {
				won++
			} else {
				wantError(t, "Close", err, net.ErrClosed)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d calls of Close returned nil", won, n)
		}
		p.expectEnd()
	})
}

// CloseRead: control frames are answered in the background, and what it returns ends with the connection.
func TestReceivesInCloseRead(t *testing.T) {
	rows := []struct {
		name, frame string
		cause       error
		code        StatusCode // of our close frame
	}{
		{"Text", "81 01 61", StatusPolicyViolation, StatusPolicyViolation},
		{"EmptyBinary", "82 00", StatusPolicyViolation, StatusPolicyViolation},
		{"Fragment", "01 00", StatusPolicyViolation, StatusPolicyViolation},
		{"Close", closeHex(4000, "x"), StatusCode(4000), 4000},
		{"Malformed", "83 00", StatusProtocolError, StatusProtocolError},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				ctx := c.CloseRead(t.Context())
				p.send("89 01 70")
				p.expect("8a 01 70")
				if err := c.Write(patience(t), TextMessage, []byte("a")); err != nil {
					t.Error(err)
				}
				p.expect("81 01 61")
				p.send(row.frame)
				p.expectClose(row.code)
				<-ctx.Done()
				wantError(t, "context.Cause", context.Cause(c.Context()), row.cause)
				wantError(t, "Read", readOne(patience(t), c).err, row.cause)
			})
		})
	}
}

// "The context it returns ends with the connection or with ctx; ctx's end does not close the connection."
func TestReceivesInCloseReadWhoseContextEnds(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), keyOfTest{}, "value"))
		ctx := c.CloseRead(parent)
		if ctx.Value(keyOfTest{}) != "value" {
			t.Error("the context does not descend from ctx")
		}
		cancel()
		<-ctx.Done()
		pass(time.Minute)
		if err := c.Context().Err(); err != nil {
			t.Fatalf("the connection ended: %v", context.Cause(c.Context()))
		}
		if err := c.Write(patience(t), TextMessage, []byte("a")); err != nil {
			t.Error(err)
		}
		p.expect("81 01 61")
	})
}

type keyOfTest struct{}

// CloseNow is at once, also on a TLS connection that cannot send its close_notify.
func TestConn_CloseNow_PastGoodbyeThatBlocks(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		c, p := connectOver(t, goodbyeConn{newCloseRecorder(near)}, far, server)
		start := time.Now()
		c.CloseNow()
		p.expectEnd()
		if d := time.Since(start); d > 0 {
			t.Errorf("CloseNow took %v", d)
		}
	})
}

// wrappings are what a listener or a dialer may put around a connection.
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
	for _, wire := range bubbleWires[:2] {
		for name, wrap := range wrappings {
			t.Run(wire.name+"/"+name, func(t *testing.T) {
				eachRoleByPipe(t, func(t *testing.T, server bool) {
					near, far := wire.ends(t)
					if !server {
						near, far = far, near
					}
					c, p := connectOver(t, wrap(near), far, server)
					f(t, c, p)
				})
			})
		}
	}
}

// `defer c.CloseNow()` does not take the close frame of a connection that has ended away from the peer.
func TestConn_CloseNow_BehindTheLastRead(t *testing.T) {
	for name, row := range map[string]struct {
		frame string
		code  StatusCode
	}{"Closed": {closeHex(4000, ""), 4000}, "Failed": {"83 00", StatusProtocolError}} {
		t.Run(name, func(t *testing.T) {
			eachWrapping(t, func(t *testing.T, c *Conn, p *rawPeer) {
				p.send("81 01 61", row.frame)
				for range c.Messages(patience(t)) {
				}
				c.CloseNow()
				p.expectClose(row.code)
				p.expectEnd()
			})
		})
	}
}

// Section 7.1.1: the server ends TCP first, and immediately, whatever the connection is wrapped in.
func TestServer_Closes_TCPAtOnceAfterBothCloseFrames(t *testing.T) {
	for name, wrap := range wrappings {
		t.Run(name, func(t *testing.T) {
			for who, begin := range map[string]func(c *Conn, p *rawPeer) error{
				"Peer": func(c *Conn, p *rawPeer) error {
					p.send(closeHex(1000, ""))
					c.Read(patience(p.t))
					p.expectClose(StatusNormalClosure)
					return nil
				},
				"Server": func(c *Conn, p *rawPeer) error {
					closed := background(func() error { return c.Close(StatusNormalClosure, "") })
					p.expectClose(StatusNormalClosure)
					p.send(closeHex(1000, ""))
					return <-closed
				},
			} {
				inBubble(t, func(t *testing.T) {
					near, far := memPipe()
					c, p := connectOver(t, wrap(near), far, true)
					start := time.Now()
					if err := begin(c, p); err != nil {
						t.Errorf("%s begins: %v", who, err)
					}
					p.expectEnd()
					if d := time.Since(start); d > 0 {
						t.Errorf("%s begins: the server let go after %v", who, d)
					}
				})
			}
		})
	}
}

// A close frame reaches a peer that had sent more than was read, through a wrapper that cannot close one half of TCP:
// unread bytes would reset the connection.
func TestConn_Closes_WrappedTCPOfPeerWithMoreToSay(t *testing.T) {
	for name, wrap := range wrappings {
		for what, first := range map[string]string{"Failure": "83 00", "Close": closeHex(1002, "")} {
			for _, server := range []bool{true, false} {
				t.Run(name+"/"+what+"/"+roleName(server), func(t *testing.T) {
					a, b := tcpEnds(t)
					c, p := connectOver(t, wrap(a), b, server)
					p.send(first)
					p.send(frameHex(0x82, make([]byte, 100<<10)), frameHex(0x82, make([]byte, 100<<10)))
					wantError(t, "Read", readOne(t.Context(), c).err, StatusProtocolError)
					c.CloseNow()
					if f, err := readFrame(p.in, server); err != nil {
						t.Errorf("the peer reads %v", err)
					} else {
						p.isClose(f, StatusProtocolError)
					}
				})
			}
		}
	}
}

// A wrapper that counts connections has to hear of each that ends.
func TestConn_Closes_TheWrapperItself(t *testing.T) {
	for name, end := range map[string]func(c *Conn, p *rawPeer){
		"CloseNow": func(c *Conn, p *rawPeer) { c.CloseNow() },
		"Silent":   func(c *Conn, p *rawPeer) { c.Close(StatusNormalClosure, "") },
		"Closed":   func(c *Conn, p *rawPeer) { go p.trySend(closeHex(1000, "")); c.Close(StatusNormalClosure, "") },
		"Lost":     func(c *Conn, p *rawPeer) { p.nc.Close(); c.Read(patience(p.t)) },
		"Failed":   func(c *Conn, p *rawPeer) { p.send("83 00"); c.Read(patience(p.t)); c.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				near, far := roleEnds(t, server)
				layered := &layeredConn{Conn: near}
				c, p := connectOver(t, layered, far, server)
				end(c, p)
				pass(time.Minute)
				if n := layered.closes.Load(); n == 0 {
					t.Error("the wrapper was not closed")
				}
			})
		})
	}
}

// "CloseNow does not postpone": of a connection that is ending it leaves at most a second, however often it is called.
func TestConn_CloseNow_AgainAndAgain(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		near, far := roleEnds(t, server)
		recorder := newCloseRecorder(near)
		c, p := connectOver(t, &layeredConn{Conn: recorder}, far, server)
		p.send("83 00")
		wantFailure(t, "Read", readOne(patience(t), c).err, StatusProtocolError)
		start := time.Now()
		for time.Since(start) < 2*testCloseTimeout {
			c.CloseNow()
			select {
			case <-recorder.closed:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
		t.Errorf("the connection is still there after %v", time.Since(start))
	})
}

// "What was accepted by Write and Send before goes out first", also behind a Writer of which nothing is out yet.
func TestConn_Closes_BehindWhatWasAcceptedDuringWriter(t *testing.T) {
	for name, text := range map[string]string{"NothingWritten": "", "Buffered": "never"} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				c, p := connectRaw(t, server)
				w, err := c.Writer(patience(t), TextMessage)
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(w, text)
				for _, s := range []string{"a", "b"} {
					if err := c.Send(TextMessage, []byte(s)); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.SendPrepared(prepare(t, []byte("c"))); err != nil {
					t.Fatal(err)
				}
				waits := background(func() error { return c.Write(patience(t), TextMessage, []byte("never")) })
				pending(t, "Write behind a Writer", waits)
				closed := background(func() error { return c.Close(4000, "") })
				p.expect("81 01 61", "81 01 62", "82 01 63")
				p.expectClose(4000)
				p.send(closeHex(4000, ""))
				if server {
					p.expectEnd()
				}
				synctest.Wait()
				p.nc.Close()
				if err := <-closed; err != nil {
					t.Errorf("Close: %v", err)
				}
				wantError(t, "Write that waited", <-waits, net.ErrClosed)
				wantError(t, "Close of the Writer", w.Close(), net.ErrClosed)
				if n := c.Stats().Pending; n != 0 {
					t.Errorf("%d bytes are pending", n)
				}
			})
		})
	}
}

// The neighbour: behind an unfinished message no other may come (section 5.4), and nothing else does.
func TestConn_Closes_BehindUnfinishedMessage(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		w, err := c.Writer(patience(t), BinaryMessage)
		if err != nil {
			t.Fatal(err)
		}
		wrote := background(func() error { _, err := w.Write(pattern(40 << 10)); return err })
		f := p.next()
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		c.Send(TextMessage, []byte("never"))
		closed := background(func() error { return c.Close(4000, "") })
		for ; f.first&0xf <= 2; f = p.next() {
			if f.first >= 0x80 {
				t.Fatalf("the peer reads %v, want fragments", f)
			}
		}
		p.isClose(f, 4000)
		p.send(closeHex(4000, ""))
		p.expectEnd()
		p.nc.Close()
		if err := <-closed; err != nil || c.Stats().Pending != 0 {
			t.Errorf("Close: %v; %d bytes are pending", err, c.Stats().Pending)
		}
	})
}

// wantCollected has f make Conns that have ended, and demands that none of them is held by what lives on.
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

// A connection that has ended is not held by a context that lives on: that of a Write that the network took after all.
func TestConn_Closes_WhileWriteIsAboutToSucceed(t *testing.T) {
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
			h := newHoldingConn(a)
			c, _ = connectOver(t, h, b, true)
			wrote := background(func() error { return c.Write(ctx, BinaryMessage, make([]byte, 20<<10)) })
			<-h.held
			c.CloseNow()
			synctest.Wait()
			close(h.free)
			<-wrote
		})
		return c
	})
}

// Nor by the context of a Writer that was never closed.
func TestConn_Closes_WithWriterThatNobodyCloses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, size := range map[string]int{"NothingWritten": 0, "Buffered": 10, "FramesOut": 40 << 10} {
		t.Run(name, func(t *testing.T) {
			wantCollected(t, func() *Conn {
				s, c := Pipe(nil, nil)
				defer c.CloseNow()
				w, err := s.Writer(ctx, BinaryMessage)
				if err != nil {
					t.Fatal(err)
				}
				w.Write(make([]byte, size))
				s.CloseNow()
				return s
			})
		})
	}
}

// Close while a peer's data message fails the connection in CloseRead: the race detector looks on.
func TestConn_Closes_WhileCloseReadMeetsData(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for range 300 {
			c, p := connectRaw(t, server)
			ctx := c.CloseRead(t.Context())
			go io.Copy(io.Discard, p.nc)
			p.trySend("82 01 61")
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			p.trySend(closeHex(1000, ""))
			<-closed
			<-ctx.Done()
			p.nc.Close()
		}
	})
}

// Close, CloseNow and a failure at the same moment: the race detector looks on.
func TestConn_Closes_WhileItFailsAndIsCut(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for range 300 {
			near, far := pipeEnds(t)
			c, p := connectOver(t, &layeredConn{Conn: near}, far, server)
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			p.expectClose(StatusNormalClosure)
			go p.trySend("83 00")
			for c.Stats().BytesRead == 0 {
				runtime.Gosched()
			}
			c.CloseNow()
			<-closed
			<-c.Context().Done()
		}
	})
}
