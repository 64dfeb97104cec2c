package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Stream returns the connection as a net.Conn that carries bytes: each Write is one message of the given type, and
// the bytes of the messages that arrive are read in order, whatever the messages were. A message of the other type
// fails the connection with StatusUnsupportedData.
//
// Read returns io.EOF where Messages ends quietly. Deadlines are true deadlines: one that passed can be moved, and
// reading and writing go on. A Write whose deadline passes before its turn has sent nothing; later its message is
// queued, goes out whole, and Write returns nil. Close is that of the Conn, with StatusNormalClosure.
func (c *Conn) Stream(typ MessageType) net.Conn { return &byteStream{c: c, typ: typ} }

// A byteStream is a Conn as a net.Conn.
type byteStream struct {
	c             *Conn
	typ           MessageType
	number        uint64 // of the message being read; owned by the holder of the read turn
	reads, writes deadline
}

func (s *byteStream) Read(p []byte) (int, error) {
	n, err := s.read(s.reads.context(), p)
	if err != nil && endsQuietly(err) {
		err = io.EOF
	}
	return n, translate(err)
}

func (s *byteStream) read(ctx context.Context, p []byte) (int, error) {
	c := s.c
	if err := c.lockRead(ctx); err != nil {
		return 0, err
	}
	defer c.turn.give()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if !c.msg.open || c.msg.number != s.number {
			typ, err := c.startMessage(ctx)
			if err != nil {
				return 0, err
			}
			if typ != s.typ&^Uncompressed {
				return 0, c.fail(&ProtocolError{StatusUnsupportedData, "a message of the other type"})
			}
			c.msg.streamed, s.number = true, c.msg.number
		}
		if n, err := c.readSome(ctx, p); err != io.EOF {
			return n, err
		}
	}
}

func (s *byteStream) Write(p []byte) (int, error) {
	f := outFrame{kept: true}
	err := s.c.dataFrame(&f, s.typ, p)
	if err == nil {
		err = s.c.submit(s.writes.context(), &f, nil)
	}
	if err != nil {
		return 0, translate(err)
	}
	return len(p), nil
}

func (s *byteStream) Close() error         { return s.c.Close(StatusNormalClosure, "") }
func (s *byteStream) LocalAddr() net.Addr  { return s.c.LocalAddr() }
func (s *byteStream) RemoteAddr() net.Addr { return s.c.RemoteAddr() }

func (s *byteStream) SetDeadline(t time.Time) error {
	s.reads.set(t)
	s.writes.set(t)
	return nil
}

func (s *byteStream) SetReadDeadline(t time.Time) error {
	s.reads.set(t)
	return nil
}

func (s *byteStream) SetWriteDeadline(t time.Time) error {
	s.writes.set(t)
	return nil
}

// A deadline can be moved as long as it has not passed, under the contexts that stand for it.
type deadline struct {
	mu    sync.Mutex // guards the fields
	timer *time.Timer
	ctx   *deadlineContext // nil: never set
}

// set moves the deadline; the zero time is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.ctx == nil || d.ctx.Err() != nil {
		d.ctx = newDeadlineContext()
	}
	switch ctx := d.ctx; {
	case t.IsZero():
	case !time.Now().Before(t):
		ctx.expire()
	default:
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() { d.expire(&timer, ctx) })
		d.timer = timer
	}
}

// expire ends ctx, unless the timer that calls it was stopped too late.
func (d *deadline) expire(timer **time.Timer, ctx *deadlineContext) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer == *timer {
		ctx.expire()
	}
}

func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		d.ctx = newDeadlineContext()
	}
	return d.ctx
}

// translate returns an error of a Conn as that of a net.Conn.
func translate(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// A deadlineContext is done when its deadline passes.
type deadlineContext struct {
	context.Context
	done  chan struct{}
	mu    sync.Mutex // guards funcs
	funcs map[*func()]func()
}

func newDeadlineContext() *deadlineContext {
	return &deadlineContext{Context: context.Background(), done: make(chan struct{})}
}

func (c *deadlineContext) Done() <-chan struct{} { return c.done }

func (c *deadlineContext) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// AfterFunc spares context.AfterFunc a goroutine.
func (c *deadlineContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := &f
	if c.Err() != nil {
		go f()
		return func() bool { return false }
	}
	if c.funcs == nil {
		c.funcs = make(map[*func()]func())
	}
	c.funcs[key] = f
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.funcs[key]
		delete(c.funcs, key)
		return ok
	}
}

func (c *deadlineContext) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Err() != nil {
		return
	}
	close(c.done)
	for _, f := range c.funcs {
		go f()
	}
	c.funcs = nil
}
