package storm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"time"

	"example.com/websocket"
)

// A way is a way to send one message, which returns the error of the call that matters.
type way struct {
	name string
	send func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error
}

var ways = []way{
	{"Write", func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
		return a.c.Write(ctx, typ, p)
	}},
	{"WriteJSON", writeJSON},
	{"WritePrepared", func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
		m, err := websocket.NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return a.c.WritePrepared(ctx, m)
	}},
	{"Writer", writePieces},
	{"ReadFrom", writeFrom},
	{"Send", func(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error { return a.c.Send(typ, p) }},
	{"SendPrepared", func(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error {
		m, err := websocket.NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return a.c.SendPrepared(m)
	}},
	{"Stream.Write", writeStream},
	{"misuse", misuse},
}

// writeUntilStopped sends messages until the round is to end, or the connection has.
func (a *actor) writeUntilStopped(l *ledger) {
	for a.pair.round.gate.pass(a.c.Context()) && a.writeOne(l) {
		if pause := a.pair.pause; pause > 0 && a.rand.IntN(4) == 0 {
			time.Sleep(time.Duration(a.rand.Int64N(int64(pause))))
		}
	}
}

// writeOne sends one message in any way. It is false when the connection has ended.
func (a *actor) writeOne(l *ledger) bool {
	w := a.ways[a.rand.IntN(len(a.ways))]
	m := l.next(a.length())
	p := m.body()
	typ := m.kind.typ()
	if a.rand.IntN(8) == 0 {
		typ |= websocket.Uncompressed
	}
	ctx, cancel := a.context()
	defer cancel()
	err := a.do(w.name, len(p), func() error { return w.send(a, ctx, typ, p) })
	if !bytes.Equal(p, m.body()) {
		a.pair.fail("corrupt", "%s: %s changed the bytes of its caller", a.name, w.name)
	}
	clear(p) // they are the caller's again
	switch a.judge(w.name, ctx, err) {
	case succeeded:
		l.settle(accepted)
	case gaveUp, backlog:
		l.settle(refused)
	case ended:
		l.settle(unknown)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			a.pair.excuse(excuseCancelled)
		}
		return false
	}
	return true
}

// length returns that of a message: of any order of magnitude up to the largest of the pair.
func (a *actor) length() int {
	n := a.rand.IntN(a.pair.largest + 1)
	return n >> a.rand.IntN(8)
}

func writeJSON(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	if p[0] != '"' {
		return a.c.Write(ctx, typ, p)
	}
	return a.c.WriteJSON(ctx, string(p[1:len(p)-1]))
}

// heldBack is how many bytes a Writer keeps in its buffer at least, so that nothing of the message is out.
const heldBack = 1000

// writePieces sends the message as a stream.
func writePieces(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	w, err := a.c.Writer(ctx, typ)
	if err != nil {
		return err
	}
	for done := 0; done < len(p); {
		n := min(1+a.rand.IntN(1<<a.rand.IntN(18)), len(p)-done)
		if _, err := w.Write(p[done : done+n]); err != nil {
			a.cutShort(done)
			return err
		}
		done += n
		if a.rand.IntN(4) == 0 {
			runtime.Gosched()
		}
	}
	if err = w.Close(); err != nil {
		a.cutShort(len(p))
	}
	return err
}

// cutShort notes that a message could not be finished of which so many bytes were written. If a part of it was sent, the
// connection fails, and what was accepted after it cannot be sent.
func (a *actor) cutShort(done int) {
	if done > heldBack {
		a.end.torn.Store(true)
		a.pair.excuse(excuseCancelled)
	}
}

// writeFrom sends the message from a source. If the context ends soon, the source blocks until it has, and until another
// call has had its turn: a Writer of which nothing was sent gives its turn back when its context ends.
func writeFrom(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	w, err := a.c.Writer(ctx, typ)
	if err != nil {
		return err
	}
	src := &source{a: a, rest: p}
	if limit, ok := ctx.Deadline(); ok && time.Until(limit) < 10*time.Millisecond && a.rand.IntN(4) == 0 {
		src.blocks = ctx
	}
	if _, err = w.(io.ReaderFrom).ReadFrom(src); err == nil {
		err = w.Close()
	}
	if err != nil {
		a.cutShort(len(p) - len(src.rest))
	}
	return err
}

type source struct {
	a      *actor
	rest   []byte
	blocks context.Context // nil: it does not
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	if s.blocks != nil {
		<-s.blocks.Done()
		s.blocks = nil
		s.a.probeTurn()
	}
	n := copy(p, s.rest[:min(len(s.rest), 1+s.a.rand.IntN(6000))])
	s.rest = s.rest[n:]
	return n, nil
}

// probeTurn sees that a message can be written although a source blocks.
func (a *actor) probeTurn() {
	l := a.probes
	m := l.next(0)
	ctx, cancel := context.WithTimeout(context.Background(), a.pair.patience())
	defer cancel()
	switch err := a.c.Write(ctx, m.kind.typ(), m.body()); {
	case err == nil:
		l.settle(accepted)
	case isEnd(err):
		l.settle(unknown)
	default:
		l.settle(refused)
		if a.pair.reads(a.end.peer) {
			a.pair.fail("turn", "%s: ReadFrom keeps the turn after its context ended: %v", a.name, err)
		}
	}
}

func writeStream(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error {
	var s net.Conn = a.c.Stream(typ)
	s.SetWriteDeadline(a.deadline())
	n, err := s.Write(p)
	if err == nil && n != len(p) {
		a.pair.fail("error", "%s: Stream.Write returned %d of %d without an error", a.name, n, len(p))
	}
	return streamError(err)
}

// misuse makes calls that must do nothing but return an error.
func misuse(a *actor, ctx context.Context, _ websocket.MessageType, _ []byte) error {
	for what, call := range map[string]func() error{
		"Write of text that is not UTF-8": func() error { return a.c.Write(ctx, websocket.TextMessage, []byte("x\xff")) },
		"Send of text that is not UTF-8":  func() error { return a.c.Send(websocket.TextMessage, []byte("x\xff")) },
		"Write of no type":                func() error { return a.c.Write(ctx, 0, nil) },
		"Close with 1005":                 func() error { return a.c.Close(websocket.StatusNoStatusRcvd, "") },
	} {
		if call() == nil {
			a.pair.fail("error", "%s: %s returned nil", a.name, what)
		}
	}
	return errNothing
}
