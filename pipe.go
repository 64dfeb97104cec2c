package websocket

// Pipe, and its in-memory net.Conn, which HTTP/2 streams and tests use too.

import (
	"cmp"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of an in-memory connection, for tests. Each direction buffers at most 64 KiB that the other
// end has not read. Pipe works in a testing/synctest bubble.
//
// The ends have the subprotocol and the compression that a handshake between the two Options would negotiate, and they
// join the groups of their Options. If a group was shut down, its end closes with StatusGoingAway. Pipe panics if an
// option is out of range.
func Pipe(server, client *Options) (*Conn, *Conn) {
	server, client = cmp.Or(server, &noOptions), cmp.Or(client, &noOptions)
	for _, o := range [...]*Options{server, client} {
		if err := o.check(); err != nil {
			panic("websocket: Pipe: " + err.Error())
		}
	}
	s, c := server.config(true), client.config(false)
	s.subprotocol = firstOffered(server.Subprotocols, client.Subprotocols)
	c.subprotocol = s.subprotocol
	s.deflate, c.deflate = agree(server.Compression, client.Compression)
	a, b := newPipe()
	return joined(newConn(a, s), server.Group), joined(newConn(b, c), client.Group)
}

// agree negotiates the compression of a Pipe and returns the parameters of each end, or nil if there is none. It writes
// and parses the fields that a handshake would send.
func agree(server, client *Compression) (*deflateParams, *deflateParams) {
	if server == nil || client == nil {
		return nil, nil
	}
	offers, _ := parseExtensions([]string{client.offer()}, "")
	s, value := server.accept(offers)
	if s == nil {
		return nil, nil
	}
	answer, _ := parseExtensions([]string{value}, "")
	c, err := client.confirm(answer)
	if err != nil {
		panic("websocket: Pipe: " + err.Error())
	}
	return s, c
}

// joined adds c to g, and closes c if g was shut down, because a Pipe has no handshake response to refuse it with.
func joined(c *Conn, g *Group) *Conn {
	if !enter(c, g) {
		go c.Close(StatusGoingAway, "")
	}
	return c
}

// pipeSize is how many unread bytes each direction of an in-memory connection holds. A socket holds about as many.
const pipeSize = 64 << 10

// newPipe returns the two ends of an in-memory connection. Unlike net.Pipe it buffers, as a socket does, so two ends
// that both write do not block each other. It waits only on channels and therefore works in a testing/synctest bubble.
// An empty pipe holds no buffer.
func newPipe() (*pipeEnd, *pipeEnd) {
	a, b := newPipeFlow(), newPipeFlow()
	return newPipeEnd(a, b), newPipeEnd(b, a)
}

func newPipeEnd(in, out *pipeFlow) *pipeEnd {
	return &pipeEnd{deadlines{&in.reads.deadline, &out.writes.deadline}, in, out}
}

// A pipeFlow is one direction of a pipe. Multiple goroutines may call its methods simultaneously. Its own methods do
// not wait, except for await; Read and Write of a pipeEnd wait by calling them again after each notify.
type pipeFlow struct {
	reads, writes waiter // of the end that reads and of the end that writes

	mu       sync.Mutex // guards the fields below
	buf      *buffer    // the unread bytes, from start; nil if there are none
	start    int
	lent     int   // bytes that lend returned and await has not given back
	writeEnd error // the error of a Read after the last byte; nil until writing ends
	readEnd  error // the error of a Write; nil until reading ends
}

// newPipeFlow returns an empty direction that is open at both ends.
func newPipeFlow() *pipeFlow { return &pipeFlow{reads: newWaiter(), writes: newWaiter()} }

// A waiter lets one call at a time wait for progress, until a deadline that may be moved. The other side calls notify
// after each change that the call may wait for.
type waiter struct {
	turn     turn // held during the call
	deadline deadline
	ready    chan struct{} // capacity 1: tells the call to try again
}

func newWaiter() waiter { return waiter{ready: make(chan struct{}, 1)} }

// until calls try until it returns true. If the deadline passes first, until returns os.ErrDeadlineExceeded.
func (w *waiter) until(try func() bool) error {
	ctx, err := w.deadline.take(&w.turn)
	if err != nil {
		return err
	}
	defer w.turn.unlock()
	for !try() {
		select {
		case <-w.ready:
		case <-ctx.Done():
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// read is the Read of a net.Conn. It calls try until try returns bytes or an error.
func (w *waiter) read(p []byte, try func(p []byte) (int, error)) (n int, err error) {
	late := w.until(func() bool {
		n, err = try(p)
		return n > 0 || err != nil || len(p) == 0
	})
	return n, cmp.Or(late, err)
}

// write is the Write of a net.Conn that waits until at least the given number of bytes is accepted. It calls try with
// the bytes that are not accepted yet.
func (w *waiter) write(p []byte, least int, try func(p []byte) (int, error)) (n int, err error) {
	late := w.until(func() bool {
		var m int
		m, err = try(p[n:])
		n += m
		return err != nil || n >= least
	})
	return n, cmp.Or(late, err)
}

// tryWrite is write without waiting. It accepts nothing while another goroutine writes.
func (w *waiter) tryWrite(p []byte, try func(p []byte) (int, error)) (int, error) {
	if !w.turn.tryLock() {
		return 0, nil
	}
	defer w.turn.unlock()
	return try(p)
}

// notify makes the waiting call try again. If no call waits, the next call that waits tries once more at once.
func (w *waiter) notify() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// read moves unread bytes to p. If there are none, it returns 0 and, if no more will follow, the reason.
func (f *pipeFlow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moveTo(p)
}

// moveTo is read for a caller that holds mu.
func (f *pipeFlow) moveTo(p []byte) (int, error) {
	if f.readEnd != nil {
		return 0, net.ErrClosed
	}
	if f.buf == nil {
		return 0, f.writeEnd
	}
	n := copy(p, f.buf.b[f.start:])
	f.start += n
	if f.start == len(f.buf.b) {
		f.drop()
	}
	f.writes.notify()
	return n, nil
}

// await waits until lend has bytes or an error to return. It gives back the bytes that lend returned last.
func (f *pipeFlow) await() {
	for !f.giveBack() {
		<-f.reads.ready
	}
}

// giveBack counts the lent bytes as read, which makes room for a Write. It reports whether lend has anything to return.
func (f *pipeFlow) giveBack() (ready bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lent = 0
	f.writes.notify()
	return f.buf != nil || f.writeEnd != nil || f.readEnd != nil
}

// lend is read for a goroutine that sends the bytes elsewhere and is the only reader. Until the next await, the bytes
// count as unread, so that a writer is never more than pipeSize ahead of the destination.
func (f *pipeFlow) lend(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err = f.moveTo(p)
	f.lent = n
	return n, err
}

// write buffers as much of p as fits, and returns the number of bytes, which may be 0. It does not wait. If the other
// end has stopped reading, it returns the reason.
func (f *pipeFlow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writeEnd != nil {
		return 0, net.ErrClosed
	}
	if f.readEnd != nil {
		return 0, f.readEnd
	}
	n := min(len(p), pipeSize-f.unread())
	if n == 0 {
		return 0, nil
	}
	f.makeRoom(n)
	f.buf.b = append(f.buf.b, p[:n]...)
	f.reads.notify()
	return n, nil
}

// unread returns how many bytes count against pipeSize. The caller holds mu.
func (f *pipeFlow) unread() int {
	if f.buf == nil {
		return f.lent
	}
	return f.lent + len(f.buf.b) - f.start
}

// makeRoom prepares buf for n more bytes. It moves the unread bytes only into a larger buffer, or after an eighth of
// the buffer was read, so that small writes do not move many bytes each. The caller holds mu.
func (f *pipeFlow) makeRoom(n int) {
	if f.buf == nil {
		f.buf = getBuffer(n)
	}
	if len(f.buf.b)+n <= cap(f.buf.b) {
		return
	}
	old, rest := f.buf, f.buf.b[f.start:]
	if size := len(rest) + n; size+size/8 > cap(old.b) {
		f.buf = getBuffer(size + size/8)
		defer old.free()
	}
	f.buf.b, f.start = append(f.buf.b[:0], rest...), 0
}

// drop frees the buffer. The caller holds mu.
func (f *pipeFlow) drop() {
	f.buf.free()
	f.buf, f.start = nil, 0
}

// closeWrite ends writing. A Read returns the unread bytes and then err, and a Write returns net.ErrClosed. Only the
// first call has an effect.
func (f *pipeFlow) closeWrite(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writeEnd == nil {
		f.writeEnd = err
	}
	f.notifyAll()
}

// closeRead ends reading and drops the unread bytes. A Write returns err, and a Read returns net.ErrClosed. Only the
// first err counts.
func (f *pipeFlow) closeRead(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readEnd == nil {
		f.readEnd = err
	}
	f.drop()
	f.notifyAll()
}

// isAtEOF reports whether writing has ended with io.EOF, a normal end, and not with an error.
func (f *pipeFlow) isAtEOF() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeEnd == io.EOF
}

// notifyAll makes the waiting calls of both ends try again.
func (f *pipeFlow) notifyAll() {
	f.reads.notify()
	f.writes.notify()
}

// A pipeEnd is the net.Conn of one end. It reads from one direction and writes to the other; the other end does the
// reverse. Multiple goroutines may call its methods simultaneously.
type pipeEnd struct {
	deadlines
	in, out *pipeFlow
}

// Read waits for the first byte and returns the bytes that are available.
func (e *pipeEnd) Read(p []byte) (int, error) { return e.in.reads.read(p, e.in.read) }

// Write waits until the pipe has taken all of p. If the deadline passes first, Write returns how much it took.
func (e *pipeEnd) Write(p []byte) (int, error) { return e.out.writes.write(p, len(p), e.out.write) }

// writeSome waits until the pipe has taken a part of p.
func (e *pipeEnd) writeSome(p []byte) (int, error) { return e.out.writes.write(p, 1, e.out.write) }

// tryWrite writes as much as fits, without waiting. It writes nothing while another goroutine writes.
func (e *pipeEnd) tryWrite(p []byte) (int, error) { return e.out.writes.tryWrite(p, e.out.write) }

// CloseWrite ends the direction that this end writes. Reading goes on.
func (e *pipeEnd) CloseWrite() error {
	e.out.closeWrite(io.EOF)
	return nil
}

// Close ends both directions and every waiting call at either end. The other end can still read what was written.
func (e *pipeEnd) Close() error {
	e.out.closeWrite(io.EOF)
	e.in.closeRead(io.ErrClosedPipe)
	return e.SetDeadline(time.Time{}) // a running timer would keep the pipe in memory
}

// softDeadlines tells the Conn that a Read or Write may be repeated after its deadline has passed.
func (e *pipeEnd) softDeadlines() {}

func (e *pipeEnd) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *pipeEnd) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// A streamAddr is the address of a stream or of a browser's connection, of which only a name is known.
type streamAddr string

func (streamAddr) Network() string  { return "websocket" }
func (a streamAddr) String() string { return string(a) }
