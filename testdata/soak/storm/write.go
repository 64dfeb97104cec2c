package storm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"testing/iotest"
	"time"

	"example.com/websocket"
)

// A way is a way to send one message.
type way struct {
	name string
	send func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error
}

func (w way) String() string { return w.name }

var ways = []way{
	{"Write", func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
		return a.c.Write(ctx, typ, p)
	}},
	{"WriteJSON", writeJSON},
	{"WritePrepared", func(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
		return a.c.WritePrepared(ctx, prepare(typ, p))
	}},
	{"Writer", writePieces},
	{"ReadFrom", writeFrom},
	{"Send", func(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error { return a.c.Send(typ, p) }},
	{"SendPrepared", func(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error {
		return a.c.SendPrepared(prepare(typ, p))
	}},
	{"Stream.Write", writeStream},
}

func prepare(typ websocket.MessageType, p []byte) *websocket.PreparedMessage {
	m, err := websocket.NewPreparedMessage(typ, p)
	if err != nil {
		panic(err)
	}
	return m
}

// writeUntilOver sends messages until the round is over, or the connection.
func (a *actor) writeUntilOver() {
	if a.end.peer.Reading == "closeRead" {
		<-a.pair.begun // sending ends the connection
	}
	for a.pair.round.pass(a.over) && a.writeOne() {
		if pause := a.pair.Pause; pause > 0 && a.rand.IntN(4) == 0 {
			time.Sleep(time.Duration(a.rand.Int64N(int64(pause))))
		}
	}
}

// writeOne sends one message in any way. It returns false when the connection has ended.
func (a *actor) writeOne() bool {
	w, m := a.ways[a.rand.IntN(len(a.ways))], a.ledger.next(a.rand.IntN(a.pair.Largest)>>a.rand.IntN(8))
	p, typ := m.body(), m.typ
	if a.rand.IntN(8) == 0 {
		typ |= websocket.Uncompressed
	}
	ctx, cancel := a.context()
	defer cancel()
	err := a.do(w.name, len(p), func() error { return w.send(a, ctx, typ, p) })
	if !bytes.Equal(p, m.body()) {
		a.fail("corrupt", "%s changed the bytes of its caller", w.name)
	}
	clear(p) // the caller owns the bytes again
	result := a.judge(w.name, ctx, err)
	a.ledger.settle([...]fate{succeeded: accepted, gaveUp: refused, ended: unknown}[result])
	if result == ended && w.name != "Stream.Write" && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		a.pair.excused.Store(true) // part of the message had been sent when its context ended
	}
	return result != ended
}

func writeJSON(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	if p[0] != '"' {
		return a.c.Write(ctx, typ, p)
	}
	return a.c.WriteJSON(ctx, string(p[1:len(p)-1]))
}

// writePieces sends the message as a stream.
func writePieces(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	w, err := a.c.Writer(ctx, typ)
	done := 0
	for err == nil && done < len(p) {
		n := min(1+a.rand.IntN(1<<a.rand.IntN(18)), len(p)-done)
		_, err = w.Write(p[done : done+n])
		done += n
		if a.rand.IntN(4) == 0 {
			runtime.Gosched()
		}
	}
	if err == nil {
		err = w.Close()
	}
	return a.noteTorn(err, done)
}

// writeFrom sends the message from a source that gives it in pieces.
func writeFrom(a *actor, ctx context.Context, typ websocket.MessageType, p []byte) error {
	w, err := a.c.Writer(ctx, typ)
	if err != nil {
		return err
	}
	n, err := w.(io.ReaderFrom).ReadFrom(iotest.HalfReader(bytes.NewReader(p)))
	if err == nil {
		err = w.Close()
	}
	return a.noteTorn(err, int(n))
}

// heldBack is a number of bytes that a Writer only buffers, so that no part of the message has been sent.
const heldBack = 1000

// noteTorn records that a message could not be finished after done bytes were written. If a part of it was sent, the
// connection fails, and the messages accepted after it cannot be sent.
func (a *actor) noteTorn(err error, done int) error {
	if err != nil && done > heldBack {
		a.end.torn.Store(true)
		a.pair.excused.Store(true)
	}
	return err
}

func writeStream(a *actor, _ context.Context, typ websocket.MessageType, p []byte) error {
	s := a.c.Stream(typ)
	s.SetWriteDeadline(a.deadline())
	_, err := s.Write(p)
	return streamError(err)
}
