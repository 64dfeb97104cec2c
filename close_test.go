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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Section 7.4: every status code in the peer's close frame.
func TestConn_Reads_StatusCodes(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, code := range statusCodes() {
			s := &scriptConn{pieces: [][]byte{towards(server, closeHex(code, "why"))}, done: make(chan struct{})}
			c := newConn(s, testConfig(server))
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

// statusCodes returns all codes up to 5100 and some above.
func statusCodes() []StatusCode {
	codes := []StatusCode{8192, 10000, 32767, 32768, math.MaxUint16}
	for code := range StatusCode(5100) {
		if !raceEnabled || code < 1 || code%1000 < 20 || code%1000 > 995 {
			codes = append(codes, code)
		}
	}
	return codes
}

// Close with a code that may not be sent, or with a reason that is longer than 123 bytes or not UTF-8, is an error:
// nothing is sent and the connection stays open.
func TestConn_Close_WithWhatMayNotBeSent(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
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
		wantAlive(t, c, p)
	})
}

// Section 7.1.1: once both close frames were exchanged, a server closes TCP at once. A client waits for that, but no
// longer than CloseTimeout.
func TestConn_Close_AndEndsTCP(t *testing.T) {
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
			if err := <-closed; err != nil {
				t.Errorf("Close with %v: %v", want, err)
			}
			p.expectEndOfTCP()
		}
	})
}

// expectEndOfTCP checks the end that section 7.1.1 requires: of a server at once, of a client eventually.
func (p *rawPeer) expectEndOfTCP() {
	p.t.Helper()
	start := time.Now()
	if !p.server {
		pass(testCloseTimeout - time.Second)
		p.quiet()
	}
	p.expectEnd()
	if d := time.Since(start); p.server && d > 0 || d > testCloseTimeout {
		p.t.Errorf("the connection was let go after %v", d)
	}
}

// leave answers the close frame and closes the connection after the Conn has read the answer. A stream of HTTP/2 that
// ended earlier would end abruptly.
func (p *rawPeer) leave(code StatusCode) {
	p.t.Helper()
	p.send(closeHex(code, ""))
	if p.server {
		p.expectEnd()
	}
	synctest.Wait()
	p.nc.Close()
}

// Section 5.5.1: valid close frames beside invalid ones. TestConn_Reads_StatusCodes has the codes.
func TestConn_Reads_CloseFrames(t *testing.T) {
	for _, row := range []struct {
		name, frame string
		code        StatusCode // of our answer
		byPeer      bool
		reason      string
	}{
		{"Empty", "88 00", 1005, true, ""},
		{"OneByte", "88 01 03", 1002, false, ""},
		{"Reason", closeHex(1001, "κόσμε"), 1001, true, "κόσμε"},
		{"ReasonOf123", closeHex(4000, strings.Repeat("x", 123)), 4000, true, strings.Repeat("x", 123)},
		{"ReasonOf124", closeHex(4000, strings.Repeat("x", 124)), 1002, false, ""},
		{"ReasonNoUTF8", closeHex(1000, "\xff"), 1007, false, ""},
		{"ReasonCut", closeHex(1000, "a\xe2\x82"), 1007, false, ""},
		{"ReasonSurrogate", closeHex(1000, "\xed\xa0\x80"), 1007, false, ""},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			p.send(row.frame)
			err := readOne(patience(t), c).err
			p.expectClose(row.code)
			if row.byPeer {
				wantClosed(t, "Read", err, row.code, row.reason)
				p.expectEndOfTCP()
			} else {
				wantFailure(t, "Read", err, row.code)
				p.expectEnd()
			}
		})
	}
}

// A read answers the peer's close frame at once. Afterwards every read, write and Ping returns the *CloseError, and
// Close returns nil, because both frames were exchanged.
func TestConn_Close_AfterThePeer(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send(closeHex(4321, "because"))
		err := readOne(patience(t), c).err
		p.expectClose(4321)
		wantSticky(t, c, err)
		for what, err := range map[string]error{"Read": err, "Send": c.Send(TextMessage, nil), "Ping": pingError(patience(t), c), "context.Cause": context.Cause(c.Context())} {
			wantClosed(t, what, err, 4321, "because")
		}
		wantOK(t, "Close", c.Close(StatusNormalClosure, ""))
		wantError(t, "Close again", c.Close(StatusNormalClosure, ""), net.ErrClosed)
		p.expectEnd() // and no second frame
	})
}

// Sections 5.5.1 and 7.1.7: bytes after the peer's close frame or after a frame that failed the connection, frames or
// not, are neither delivered nor answered.
func TestConn_Reads_NothingAfterTheEnd(t *testing.T) {
	for end, code := range map[string]StatusCode{closeHex(1000, ""): StatusNormalClosure, "83 01 61": StatusProtocolError} {
		for name, after := range map[string]string{
			"Message": "81 01 61", "Ping": "89 01 61", "Close": closeHex(1002, ""), "Garbage": "ff 7f ffffffffffffffff", "Half": "81 7e 0100 61",
		} {
			eachConnIn(t, fmt.Sprint(name, "After", uint16(code)), func(t *testing.T, c *Conn, p *rawPeer) {
				p.send("81 01 7a", end, after)
				wantRead(t, c, TextMessage, "z")
				wantError(t, "Read", readOne(patience(t), c).err, code)
				p.expectClose(code)
				p.expectEnd()
				wantError(t, "Read", readOne(patience(t), c).err, code)
				wantError(t, "context.Cause", context.Cause(c.Context()), code)
				if err := c.Close(StatusNormalClosure, ""); code == StatusProtocolError { // "the connection's error when it had failed"
					wantFailure(t, "Close", err, code)
				}
			})
		}
	}
}

// If the reason of a failure does not fit into a close frame, the frame has the code alone.
func TestConn_Fails_WithLongReason(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		c.end.fail(&ProtocolError{StatusPolicyViolation, strings.Repeat("x", 124)})
		p.expectClose(StatusPolicyViolation)
		p.expectEnd()
	})
}

// Section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame." Later calls, waiting
// calls and the calls of an open Writer return net.ErrClosed.
func TestConn_Close_AndSendsNothingMore(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, TextMessage)
		read := background(func() error { return readOne(patience(t), c).err })
		pending(t, "Read", read)
		start := time.Now()
		closed := background(func() error { return c.Close(StatusGoingAway, "off") })
		p.expect(closeHex(1001, "off"))
		for name, write := range waysToWrite {
			wantError(t, name, write(patience(t), c, TextMessage, []byte("a")), net.ErrClosed)
		}
		_, err := io.WriteString(w, "a")
		wantError(t, "Write of the Writer", err, net.ErrClosed)
		wantError(t, "Close of the Writer", w.Close(), net.ErrClosed)
		p.leave(1001)
		wantOK(t, "Close", <-closed)
		took(t, "Close", start, 0)
		for what, err := range map[string]error{"Read that waited": <-read, "Read": readOne(patience(t), c).err,
			"context.Cause": context.Cause(c.Context()), "Ping": pingError(patience(t), c)} {
			wantError(t, what, err, net.ErrClosed)
		}
	})
}

// After Close, reads and writes return net.ErrClosed and Messages ends quietly, whatever the peer sends before or after
// its answer and without an answer. Close discards messages, which are no longer checked for their size or for UTF-8.
func TestConn_Close_WhateverThePeerSends(t *testing.T) {
	for name, frames := range map[string][]string{
		"Answer":             {closeHex(1000, "")},
		"MessageAfterAnswer": {closeHex(1000, ""), "81 01 78"},
		"MessageBefore":      {"81 01 78", closeHex(1000, "")},
		"WrongMessages":      {"81 01 61", frameHex(2, make([]byte, 200<<10)), "80 00", "81 01 ff", closeHex(1000, "")},
		"NoAnswer":           nil,
	} {
		eachConnIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			go p.trySend(frames...)
			if err := c.Close(StatusNormalClosure, ""); (err == nil) != (frames != nil) {
				t.Errorf("Close: %v", err)
			}
			for what, err := range map[string]error{"Read": readOne(patience(t), c).err, "Write": c.Write(patience(t), BinaryMessage, nil)} {
				if err != net.ErrClosed {
					t.Errorf("%s after Close: %v", what, err)
				}
			}
			if got, errs := collect(c, patience(t)); got != nil || errs != nil {
				t.Errorf("Messages after Close yields %q, %v", got, errs)
			}
			p.expectClose(StatusNormalClosure)
			p.expectEnd()
		}, smallLimit)
	}
}

// When both ends close at the same time, each sends one close frame.
func TestConn_Close_WhileThePeerCloses(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		p.send(closeHex(1001, "me too"))
		wantOK(t, "Close", c.Close(StatusNormalClosure, "me"))
		p.expect(closeHex(1000, "me"))
		p.expectEnd()
	})
}

// Close returns an error that matches os.ErrDeadlineExceeded after CloseTimeout, whatever the peer sends instead of an
// answer.
func TestConn_Close_OfPeerThatDoesNotAnswer(t *testing.T) {
	for name, frames := range map[string][]string{
		"Silent": nil, "Messages": {"81 01 61"}, "Pings": {"89 00"}, "Fragments": {"02 00", "00 00"},
		"Drip": {frameHex(0x82, make([]byte, 120))},
	} {
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			start := time.Now()
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			p.expectClose(StatusNormalClosure)
			go p.dripFor(time.Minute, frames)
			wantError(t, "Close", <-closed, os.ErrDeadlineExceeded)
			took(t, "Close", start, testCloseTimeout)
			f, err := p.tryNext()
			for ; err == nil && f.first == 0x8a; f, err = p.tryNext() { // pings are answered until the peer's close frame
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the peer reads %v, %v, want the end", f, err)
			}
			wantError(t, "Read", readOne(patience(t), c).err, net.ErrClosed)
		})
	}
}

// dripFor sends frames for a while, the last one repeatedly, and a long one byte by byte.
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

// Section 5.5.2 demands an answer to a ping "unless [the endpoint] already received a Close frame". Section 5.5.1
// forbids only data frames after our own close frame.
func TestConn_Close_AndAnswersPings(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.send("89 02 6869")
		p.expect("8a 02 6869")
		p.send(closeHex(1000, ""), "89 00")
		p.expectEnd()
		wantOK(t, "Close", <-closed)
	})
}

// A peer that does not even take our close frame is cut off after CloseTimeout.
func TestConn_Close_OfPeerThatReadsNothing(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		blocked := block(t, c)
		start := time.Now()
		wantError(t, "Close", c.Close(StatusNormalClosure, ""), os.ErrDeadlineExceeded)
		took(t, "Close", start, testCloseTimeout)
		wantError(t, "Write", <-blocked, net.ErrClosed)
		p.expectCut()
	})
}

// Close returns an error if the connection ends without the peer's close frame.
func TestConn_Close_OfPeerThatGoes(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		closed := background(func() error { return c.Close(StatusNormalClosure, "") })
		p.expectClose(StatusNormalClosure)
		p.nc.Close()
		if err := <-closed; err == nil {
			t.Error("Close: nil, though the peer sent no close frame")
		}
	})
}

// Messages that Write and Send accepted go out before the close frame, also if a Writer is open that has sent no frame.
func TestConn_Close_AfterWhatWasAcceptedDuringWriter(t *testing.T) {
	for name, text := range map[string]string{"NothingWritten": "", "Buffered": "never"} {
		eachWireIn(t, name, func(t *testing.T, c *Conn, p *rawPeer) {
			w := openWriter(t, patience(t), c, TextMessage)
			io.WriteString(w, text)
			for _, way := range []string{"Send", "Send", "SendPrepared"} {
				must(t, waysToWrite[way](patience(t), c, TextMessage, []byte("a")))
			}
			waits := background(func() error { return c.Write(patience(t), TextMessage, []byte("never")) })
			pending(t, "Write during a Writer", waits)
			closed := background(func() error { return c.Close(4000, "") })
			p.expect("81 01 61", "81 01 61", "81 01 61")
			p.expectClose(4000)
			p.leave(4000)
			wantOK(t, "Close", <-closed)
			wantError(t, "Write that waited", <-waits, net.ErrClosed)
			wantError(t, "Close of the Writer", w.Close(), net.ErrClosed)
			wantPending(t, c, 0)
		})
	}
}

// Section 5.4: no other message may follow an unfinished one, so only the close frame is sent.
func TestConn_Close_AfterUnfinishedMessage(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		w := openWriter(t, patience(t), c, BinaryMessage)
		if _, err := w.Write(pattern(40 << 10)); err != nil {
			t.Fatal(err)
		}
		c.Send(TextMessage, []byte("never"))
		closed := background(func() error { return c.Close(4000, "") })
		f := p.next()
		for ; f.first&0xf <= 2; f = p.next() {
			if f.first >= 0x80 {
				t.Fatalf("the peer reads %v, want fragments", f)
			}
		}
		p.isClose(f, 4000)
		p.send(closeHex(4000, ""))
		p.expectEnd()
		wantOK(t, "Close", <-closed)
		wantPending(t, c, 0)
	})
}

// CloseNow unblocks every call, also a Close that waits. They return net.ErrClosed.
func TestConn_CloseNow_UnblocksEverything(t *testing.T) {
	eachWire(t, func(t *testing.T, c *Conn, p *rawPeer) {
		waiting := map[string]<-chan error{"Ping": background(func() error { return pingError(patience(t), c) })}
		for i := range 5 {
			waiting[fmt.Sprint("Read ", i)] = background(func() error { return readOne(patience(t), c).err })
		}
		synctest.Wait()
		p.next()
		waiting["Write"] = block(t, c)
		waiting["Close"] = background(func() error { return c.Close(StatusNormalClosure, "") })
		synctest.Wait()
		start := time.Now()
		wantOK(t, "CloseNow", c.CloseNow())
		for what, err := range waiting {
			wantError(t, what, <-err, net.ErrClosed)
		}
		wantError(t, "context.Cause", context.Cause(c.Context()), net.ErrClosed)
		wantError(t, "Close after CloseNow", c.Close(StatusNormalClosure, ""), net.ErrClosed)
		c.CloseNow()
		took(t, "CloseNow", start, 0)
		p.expectCut()
	})
}

// After the last read, `defer c.CloseNow()` still lets the close frame reach the peer.
func TestConn_CloseNow_AfterTheLastRead(t *testing.T) {
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

// CloseNow leaves a connection that is ending at most a second, however often it is called.
func TestConn_CloseNow_AgainAndAgain(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
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

// CloseNow does not wait for a TLS connection that cannot send its close_notify.
func TestConn_CloseNow_PastGoodbyeThatBlocks(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
		c, p := connectOver(t, goodbyeConn{newCloseRecorder(near)}, far, server)
		start := time.Now()
		c.CloseNow()
		p.expectEnd()
		took(t, "CloseNow", start, 0)
	})
}

// Of many concurrent calls of Close, one sends the close frame and the others return net.ErrClosed.
func TestConn_Close_ManyAtOnce(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		const n = 10
		all := make(chan error, n)
		for range n {
			go func() { all <- c.Close(4000, "") }()
		}
		p.expectClose(4000)
		p.send(closeHex(4000, ""))
		p.closeWrite()
		won := 0
		for range n {
			if err := <-all; err == nil {
				won++
			} else {
				wantError(t, "Close", err, net.ErrClosed)
			}
		}
		wantEqual(t, "calls of Close that returned nil", won, 1)
		p.expectEnd()
	})
}

// Two events end a connection at the same time. This is for the race detector.
func TestConn_Close_AsSomethingElseEndsIt(t *testing.T) {
	for name, f := range map[string]func(c *Conn, p *rawPeer){
		"CloseNow": func(c *Conn, p *rawPeer) {
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			c.CloseNow()
			<-closed
		},
		"DataInCloseRead": func(c *Conn, p *rawPeer) {
			ctx := c.CloseRead(context.Background())
			go io.Copy(io.Discard, p.nc)
			p.trySend("82 01 61")
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			p.trySend(closeHex(1000, ""))
			<-closed
			<-ctx.Done()
		},
		"FailureAndCloseNow": func(c *Conn, p *rawPeer) {
			closed := background(func() error { return c.Close(StatusNormalClosure, "") })
			p.expectClose(StatusNormalClosure)
			go p.trySend("83 00")
			for c.Stats().BytesRead == 0 {
				runtime.Gosched()
			}
			c.CloseNow()
			<-closed
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachRoleOutside(t, func(t *testing.T, server bool) {
				for range 300 {
					near, far := memPipe()
					c, p := connectOver(t, &layeredConn{Conn: near}, far, server)
					f(c, p)
					<-c.Context().Done()
					far.Close()
				}
			})
		})
	}
}

// CloseRead answers control frames in the background. Its context ends with the connection.
func TestConn_CloseRead_UntilTheConnectionEnds(t *testing.T) {
	for _, row := range []struct {
		name, frame string
		cause       error
		code        StatusCode // of our close frame
	}{
		{"Text", "81 01 61", StatusPolicyViolation, StatusPolicyViolation},
		{"EmptyBinary", "82 00", StatusPolicyViolation, StatusPolicyViolation},
		{"Fragment", "01 00", StatusPolicyViolation, StatusPolicyViolation},
		{"Close", closeHex(4000, "x"), StatusCode(4000), 4000},
		{"Malformed", "83 00", StatusProtocolError, StatusProtocolError},
	} {
		eachConnIn(t, row.name, func(t *testing.T, c *Conn, p *rawPeer) {
			ctx := c.CloseRead(t.Context())
			p.send("89 01 70")
			p.expect("8a 01 70")
			wantOK(t, "Write", c.Write(patience(t), TextMessage, []byte("a")))
			p.expect("81 01 61")
			p.send(row.frame)
			p.expectClose(row.code)
			<-ctx.Done()
			wantError(t, "context.Cause", context.Cause(c.Context()), row.cause)
			wantError(t, "Read", readOne(patience(t), c).err, row.cause)
		})
	}
}

// The context of CloseRead also ends with ctx, which does not close the connection.
func TestConn_CloseRead_UntilItsContextEnds(t *testing.T) {
	type key struct{}
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		ctx := c.CloseRead(parent)
		if ctx.Value(key{}) != "value" {
			t.Error("the context does not descend from ctx")
		}
		cancel()
		<-ctx.Done()
		pass(time.Minute)
		wantAlive(t, c, p)
	})
}

// What Send accepted after a message whose last frame is being sent goes out too.
func TestConn_Closes_WhileWriterCloses(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		must(t, c.Write(patience(t), BinaryMessage, pattern(63<<10)))
		w := openWriter(t, patience(t), c, BinaryMessage)
		w.Write(pattern(3 << 10))
		ended := background(w.Close)
		pending(t, "Close of the Writer", ended)
		wantOK(t, "Send", c.Send(TextMessage, []byte("x")))
		closed := background(func() error { return c.Close(4000, "") })
		synctest.Wait()
		p.expect(frameHex(0x82, pattern(63<<10)), frameHex(0x82, pattern(3<<10)), "81 01 78")
		p.expectClose(4000)
		p.send(closeHex(4000, ""))
		wantOK(t, "Close of the Writer", <-ended)
		wantOK(t, "Close", <-closed)
	})
}

// While the underlying connection is slow to close, CloseNow has unblocked every call, and a connection whose context
// is done accepts no message.
func TestConn_CloseNow_WhileUnderlyingConnectionCloses(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
		free := make(chan struct{})
		c, _ := connectOver(t, &hookedConn{Conn: near, close: func() error { <-free; return near.Close() }}, far, server)
		if _, err := c.Writer(patience(t), TextMessage); err != nil {
			t.Fatal(err)
		}
		wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("a")) })
		pending(t, "Write", wrote)
		closed := background(c.CloseNow)
		defer func() {
			close(free)
			wantOK(t, "CloseNow", <-closed)
		}()
		wantEnded(t, c)
		wantError(t, "Send", c.Send(TextMessage, []byte("a")), net.ErrClosed)
		wantError(t, "Write that waits", returned(t, "Write", wrote), net.ErrClosed)
	})
}

// A connection that returns neither bytes nor an end is not read again and again until CloseTimeout.
func TestConn_Closes_OverConnectionThatReadsNothing(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		near, far := memPipe()
		said := towards(server, closeHex(4000, ""))
		var reads atomic.Int32
		c, p := connectOver(t, &hookedConn{Conn: near, read: func(p []byte) (int, error) {
			switch n := reads.Add(1); {
			case n == 1:
				return near.Read(p[:len(said)])
			case n > spins:
				return 0, io.EOF
			}
			return 0, nil
		}}, far, server)
		p.sendBytes(said)
		wantError(t, "Read", readOne(patience(t), c).err, StatusCode(4000))
		p.expectClose(4000)
		p.expectEnd()
		if reads.Load() > spins {
			t.Error("the end of the connection spins")
		}
	})
}

// CloseNow may come after Close has begun and before it has sent its frame.
func TestConn_CloseNow_AsCloseBegins(t *testing.T) {
	eachConn(t, func(t *testing.T, c *Conn, p *rawPeer) {
		c.end.step(eventClose, net.ErrClosed)
		c.CloseNow()
		payload, _ := closePayload(StatusNormalClosure, "")
		c.end.startClose(net.ErrClosed, payload, false)
		wantError(t, "Close", c.end.awaitClose(), net.ErrClosed)
		p.expectEnd()
	})
}

// The answer to a close frame takes no more of the stack than a new goroutine has, because growing it would take a
// tenth of the time of the connection.
func TestServer_AnswersClose_OnTheStackOfANewGoroutine(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	wantNewStacks(t, func(c *Conn) {
		var frames [60]byte // of Handler and of a caller
		for range c.Messages(context.Background()) {
			escapes(frames[:0])
		}
		<-done
	}, func(p *rawPeer) {
		p.send(closeHex(StatusNormalClosure, ""))
		p.expectClose(StatusNormalClosure)
		p.expectEnd()
	})
}
