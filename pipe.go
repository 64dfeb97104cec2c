package websocket

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeSize is how many bytes may stand in each direction of an in-memory connection, as in a socket's buffer.
const pipeSize = 64 << 10

// memPipe returns the two ends of an in-memory connection. Unlike net.Pipe's it has buffers, as a socket has, so
// that two ends that both write do not wait for each other. It waits in channels alone, and so works in a
// testing/synctest bubble. While nothing stands in it, it holds no buffer.
func memPipe() (net.Conn, net.Conn) {
	a, b := newPipeFlow(), newPipeFlow()
	return newPipeEnd(a, b), newPipeEnd(b, a)
}

// A pipeFlow is one direction of a pipe.
type pipeFlow struct {
	reading, writing   chan struct{} // full while someone reads or writes: they take turns
	readable, writable chan struct{} // tell the one who waits to look again

	mu        sync.Mutex
	buf       *buffer // nil while nothing stands in it
	at        int     // of the first byte of buf.b that was not read yet
	noReader  bool
	noWriter  bool
	readLimit pipeDeadline
	sendLimit pipeDeadline
}

func newPipeFlow() *pipeFlow {
	f := &pipeFlow{
		reading:  make(chan struct{}, 1),
		writing:  make(chan struct{}, 1),
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
	}
	f.readLimit.passed = make(chan struct{})
	f.sendLimit.passed = make(chan struct{})
	return f
}

// take moves what stands in the flow to p.
func (f *pipeFlow) take(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.noReader:
		return 0, net.ErrClosed
	case f.buf == nil && f.noWriter:
		return 0, io.EOF
	case f.buf == nil:
		return 0, nil
	}
	n := copy(p, f.buf.b[f.at:])
	f.at += n
	if f.at == len(f.buf.b) {
		f.drop()
	}
	notify(f.writable)
	return n, nil
}

// put takes as much of p as fits.
func (f *pipeFlow) put(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.noWriter:
		return 0, net.ErrClosed
	case f.noReader:
		return 0, io.ErrClosedPipe
	}
	n := min(len(p), pipeSize-f.standing())
	if n == 0 {
		return 0, nil
	}
	f.makeRoom(n)
	f.buf.b = append(f.buf.b, p[:n]...)
	notify(f.readable)
	return n, nil
}

func (f *pipeFlow) standing() int {
	if f.buf == nil {
		return 0
	}
	return len(f.buf.b) - f.at
}

// makeRoom readies buf for n bytes more. What stands there is moved only when an eighth of it was read since, or
// into a larger buffer.
func (f *pipeFlow) makeRoom(n int) {
	if f.buf == nil {
		f.buf = getBuffer(n)
	}
	if len(f.buf.b)+n <= cap(f.buf.b) {
		return
	}
	old, rest := f.buf, f.buf.b[f.at:]
	if size := len(rest) + n; size+size/8 > cap(old.b) {
		f.buf = getBuffer(size + size/8)
		defer old.free()
	}
	f.buf.b, f.at = append(f.buf.b[:0], rest...), 0
}

func (f *pipeFlow) drop() {
	f.buf.free()
	f.buf, f.at = nil, 0
}

// closeWriter lets the reader have what stands in the flow, and then io.EOF.
func (f *pipeFlow) closeWriter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noWriter = true
	f.wake()
}

// closeReader drops what stands in the flow.
func (f *pipeFlow) closeReader() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noReader = true
	f.drop()
	f.wake()
}

func (f *pipeFlow) wake() {
	notify(f.readable)
	notify(f.writable)
}

// notify leaves word in a channel of one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A pipeEnd is a net.Conn.
type pipeEnd struct{ in, out *pipeFlow }

func newPipeEnd(in, out *pipeFlow) *pipeEnd { return &pipeEnd{in, out} }

// Read waits for the first byte and returns what is there.
func (e *pipeEnd) Read(p []byte) (int, error) {
	late := e.in.readLimit.wait()
	if err := takeTurn(e.in.reading, late); err != nil {
		return 0, err
	}
	defer func() { <-e.in.reading }()
	for {
		n, err := e.in.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, e.failed("read", err)
		}
		select {
		case <-e.in.readable:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Write waits until all of p is taken. Where the deadline passes before that, it returns the count of what was.
func (e *pipeEnd) Write(p []byte) (int, error) { return e.write(p, len(p)) }

// writeSome waits until a part of p is taken.
func (e *pipeEnd) writeSome(p []byte) (int, error) { return e.write(p, 1) }

// write waits until at least a given number of bytes is taken.
func (e *pipeEnd) write(p []byte, least int) (int, error) {
	late := e.out.sendLimit.wait()
	if err := takeTurn(e.out.writing, late); err != nil {
		return 0, err
	}
	defer func() { <-e.out.writing }()
	for sent := 0; ; {
		n, err := e.out.put(p[sent:])
		sent += n
		if err != nil || sent >= least {
			return sent, e.failed("write", err)
		}
		select {
		case <-e.out.writable:
		case <-late:
			return sent, os.ErrDeadlineExceeded
		}
	}
}

// takeTurn fills turn, unless the deadline passes or has passed.
func takeTurn(turn chan<- struct{}, late <-chan struct{}) error {
	select {
	case <-late:
		return os.ErrDeadlineExceeded
	default:
	}
	select {
	case turn <- struct{}{}:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	}
}

// tryWrite takes what fits at once; none while another goroutine writes.
func (e *pipeEnd) tryWrite(p []byte) (int, error) {
	select {
	case e.out.writing <- struct{}{}:
	default:
		return 0, nil
	}
	defer func() { <-e.out.writing }()
	n, err := e.out.put(p)
	return n, e.failed("write", err)
}

// failed gives an error the form it has on a socket. An io.EOF stays as it is.
func (e *pipeEnd) failed(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "pipe", Addr: pipeAddr{}, Err: err}
}

// CloseWrite ends what the other end can read; reading goes on.
func (e *pipeEnd) CloseWrite() error {
	e.out.closeWriter()
	return nil
}

// Close unblocks what waits on both ends. The other end can still read what was written.
func (e *pipeEnd) Close() error {
	e.out.closeWriter()
	e.in.closeReader()
	return nil
}

// softDeadlines says that a Read or Write can go on after a deadline that passed.
func (e *pipeEnd) softDeadlines() {}

func (e *pipeEnd) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *pipeEnd) RemoteAddr() net.Addr { return pipeAddr{} }

func (e *pipeEnd) SetDeadline(t time.Time) error {
	e.in.readLimit.set(t)
	e.out.sendLimit.set(t)
	return nil
}

func (e *pipeEnd) SetReadDeadline(t time.Time) error {
	e.in.readLimit.set(t)
	return nil
}

func (e *pipeEnd) SetWriteDeadline(t time.Time) error {
	e.out.sendLimit.set(t)
	return nil
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// A pipeDeadline is a channel that closes when the deadline passes. It may be moved, also after it passed.
type pipeDeadline struct {
	mu     sync.Mutex
	passed chan struct{}
	timer  *time.Timer // nil: none is to come
}

func (d *pipeDeadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *pipeDeadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		d.start(left)
	} else {
		close(d.passed)
	}
}

// start and expire are called with mu held.
func (d *pipeDeadline) start(left time.Duration) {
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.expire(timer)
	})
	d.timer = timer
}

// expire closes passed, unless the timer was replaced while it fired.
func (d *pipeDeadline) expire(timer *time.Timer) {
	if d.timer == timer {
		d.timer = nil
		close(d.passed)
	}
}
