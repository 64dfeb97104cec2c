package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// What the Conn does with the connection beneath it. A write first tries what the socket takes at once; only when
// it is full, deadlines and contexts come in.

// A socket is what can be done with a connection beyond net.Conn.
type socket interface {
	tryWriter
	read(p []byte) (int, error)
	waitRead(b **buffer, size int) (int, error) // into a pooled buffer, which is taken only when there is something
	drained() bool                              // nothing stands in the socket to be read
}

// A tryWriter writes what is taken at once, which may be nothing.
type tryWriter interface {
	tryWrite(p []byte) (int, error)
}

// A someWriter waits until a part of p is taken.
type someWriter interface {
	writeSome(p []byte) (int, error)
}

const (
	pieceLimit = 64 << 10  // payload masked, or copied, at a time
	splitLimit = 256 << 10 // payload of a frame that is begun with a piece of it
	recordSize = 16 << 10  // of TLS: what is written within one deadline where a passed one is final
	stallSteps = 16        // deadlines within WriteTimeout, to see when the last byte was taken
)

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

var errStalled = &stallError{}

// A stallError is a socket that took nothing for Options.WriteTimeout.
type stallError struct{}

func (*stallError) Error() string   { return "the peer took nothing for WriteTimeout" }
func (*stallError) Timeout() bool   { return true }
func (*stallError) Temporary() bool { return false }
func (*stallError) Unwrap() error   { return os.ErrDeadlineExceeded }

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isSoft reports whether a passed deadline leaves the stream whole, and a write that meets one says how much was
// taken. That of a TLS connection is final: "After a Write has timed out, the TLS state is corrupt".
func isSoft(nc net.Conn) bool {
	switch nc := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	default:
		_, ok := nc.(interface{ softDeadlines() })
		return ok
	}
}

// A watch interrupts I/O when a context ends. It is set once for a context that comes again.
type watch struct{ on *watched }

type watched struct {
	done     <-chan struct{}
	stop     func() bool
	finished chan struct{} // closed when the interrupt is over
}

// is reports whether it is ctx that is watched.
func (w *watch) is(ctx context.Context) bool {
	if w.on == nil {
		return ctx.Done() == nil
	}
	return w.on.done == ctx.Done()
}

// set watches ctx instead of what was watched before, whose interrupt has not happened then or is over.
func (w *watch) set(ctx context.Context, interrupt func()) {
	w.unset()
	if ctx.Done() == nil {
		return
	}
	finished := make(chan struct{})
	w.on = &watched{done: ctx.Done(), finished: finished}
	w.on.stop = context.AfterFunc(ctx, func() {
		interrupt()
		close(finished)
	})
}

func (w *watch) unset() {
	if w.on != nil && !w.on.stop() {
		<-w.on.finished
	}
	w.on = nil
}

// fill waits for bytes from the peer and puts them into dst or, where that is nil, behind those in the read buffer;
// without any there, it waits without a buffer. The stack of a goroutine starts with 2 KiB, of which its functions may
// use 1,100 bytes, and never shrinks below what it once was: what is called from here, and what calls it, is kept small.
func (c *Conn) fill(ctx context.Context, dst []byte) (int, error) {
	c.prepareFill()
	for {
		c.live.start()
		var n int
		var err error
		if dst == nil && c.in.buf == nil && c.sock != nil {
			n, err = c.sock.waitRead(&c.in.buf, int(c.readSize))
		} else {
			n, err = c.receive(dst)
		}
		if n > 0 {
			c.live.heard()
			c.counts.bytes.Add(uint64(n))
			return n, nil
		}
		if err = c.nothing(ctx, err); err != nil {
			return 0, err
		}
	}
}

// prepareFill does what is to be done before the read buffer, which has no whole frame, is filled.
func (c *Conn) prepareFill() {
	c.counts.publish()
	c.setMore(false)
	c.flushDeferred()
	c.in.release()
	c.idle = 0
}

// receive reads once.
func (c *Conn) receive(dst []byte) (int, error) {
	switch {
	case dst != nil:
		return c.readInto(dst)
	case c.in.buf == nil:
		return c.receiveSmall()
	}
	n, err := c.readInto(c.in.space(int(c.readSize)))
	c.in.added(max(n, 0))
	return n, err
}

// receiveSmall reads into the small buffer, for there is none that is taken only when there are bytes.
func (c *Conn) receiveSmall() (int, error) {
	n, err := c.nc.Read(c.small[:])
	if n > 0 {
		b := getBuffer(max(n, int(c.readSize)))
		b.b = append(b.b, c.small[:n]...)
		c.in.adopt(b)
	}
	return n, err
}

func (c *Conn) readInto(p []byte) (int, error) {
	if c.sock != nil {
		return c.sock.read(p)
	}
	return c.nc.Read(p)
}

// nothing judges a read that brought no byte; nil means to go on.
func (c *Conn) nothing(ctx context.Context, err error) error {
	switch {
	case err == nil:
		if c.idle++; c.idle < 100 {
			return nil
		}
		return c.lost(io.ErrNoProgress)
	case isTimeout(err):
		c.live.pause()
		return c.rearm(ctx)
	}
	return c.lost(err)
}

// rearm decides what comes after a deadline: the end of the read, or the next deadline.
func (c *Conn) rearm(ctx context.Context) error {
	if err := c.stopped(ctx); err != nil {
		return err
	}
	elsewhere(c.setDeadline)
	return c.stopped(ctx) // whoever interrupted before the deadline was set has left a reason
}

// elsewhere runs f on a goroutine of its own, so that the stack of the caller, who is about to wait, does not grow by
// what f needs.
func elsewhere(f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	<-done
}

// setDeadline sets the deadline of the next wait and sends a ping, when it is time.
func (c *Conn) setDeadline() {
	if c.live.period == 0 || c.draining {
		c.nc.SetReadDeadline(time.Time{})
		return
	}
	rest, ping, gone := c.live.due()
	if gone {
		c.fail(&lostError{"waiting for the answer to a ping", errSilent})
		return
	}
	if ping {
		c.ping(nil)
	}
	c.nc.SetReadDeadline(time.Now().Add(rest))
}

// lost fails the connection for an error of reading it.
func (c *Conn) lost(err error) error {
	if err == io.EOF {
		// Section 7.1.5: "If ... the WebSocket Connection is Closed and no Close control frame was received", the
		// code is 1006; an end that nobody announced is not io.EOF to the caller.
		err = io.ErrUnexpectedEOF
	}
	return c.fail(&lostError{"reading", err})
}

// transmit sends it. Whoever calls it has the socket.
func (c *Conn) transmit(ctx context.Context, it *item, block bool) error {
	if it.note != nil {
		c.compressor().note(it.note)
		it.note, it.bound = nil, true
	}
	c.cook(it)
	if it.kind != itemDirect {
		n, err := c.put(ctx, it.data, block)
		it.data = it.data[n:]
		it.sent = it.sent || n > 0
		return err
	}
	if !block {
		return errWouldBlock
	}
	return c.putDirect(ctx, it)
}

// put writes p, as far as it can.
func (c *Conn) put(ctx context.Context, p []byte, block bool) (n int, err error) {
	if c.try != nil {
		n, err = c.tryNow(p)
		if n == len(p) || err != nil && !isTimeout(err) {
			return n, err
		}
	}
	if !block {
		return n, errWouldBlock
	}
	m, err := c.putWaiting(ctx, p[n:])
	return n + m, err
}

// tryNow writes what is taken at once. Where a passed deadline is final, the interrupt of an earlier write, whose ctx may
// end now, must not meet this one.
func (c *Conn) tryNow(p []byte) (int, error) {
	if !c.soft {
		c.writeWatch.unset()
	}
	return c.try.tryWrite(p)
}

// putDirect writes the frame of it, whose payload is large and the caller's.
func (c *Conn) putDirect(ctx context.Context, it *item) error {
	p := it.frame.payload
	h := it.frame.header(!c.server)
	h.length = uint64(len(p))
	if h.masked {
		h.key = newMaskKey()
	}
	it.wire = headerSize(len(p), h.masked) + len(p)
	if c.server && c.vectored {
		return c.putVectored(ctx, it, &h)
	}
	return c.putPieces(ctx, it, &h)
}

// putVectored writes the frame of it uncopied. A large one begins with a piece, so that the peer is at it while the kernel
// copies the rest; that takes a quarter less time from 512 KiB on.
func (c *Conn) putVectored(ctx context.Context, it *item, h *header) error {
	p, rest := it.frame.payload, []byte(nil)
	if len(p) >= splitLimit {
		p, rest = p[:pieceLimit], p[pieceLimit:]
	}
	err := c.putBoth(ctx, it, appendHeader(it.head[:0], h), p)
	if err == nil && rest != nil {
		err = c.putBoth(ctx, it, rest, nil)
	}
	return err
}

func (c *Conn) putBoth(ctx context.Context, it *item, p, q []byte) error {
	it.vector = [2][]byte{p, q}
	it.rest = it.vector[:]
	n, err := c.putResumable(ctx, &it.rest)
	it.sent = it.sent || n > 0
	return err
}

// putPieces writes the frame of it in pieces that are masked, or copied behind its header, first.
func (c *Conn) putPieces(ctx context.Context, it *item, h *header) error {
	p := it.frame.payload
	b := getBuffer(min(len(p), pieceLimit) + maxHeader)
	defer b.free()
	b.b = appendHeader(b.b, h)
	for pos := 0; pos < len(p); {
		n := min(len(p)-pos, pieceLimit)
		head := len(b.b)
		b.b = b.b[:head+n]
		if h.masked {
			mask(b.b[head:], p[pos:pos+n], h.key, pos)
		} else {
			copy(b.b[head:], p[pos:])
		}
		m, err := c.put(ctx, b.b, true)
		it.sent = it.sent || m > 0
		if err != nil {
			return err
		}
		pos += n
		b.b = b.b[:0]
	}
	return nil
}

// putWaiting writes p, and waits for the socket where it must.
func (c *Conn) putWaiting(ctx context.Context, p []byte) (int, error) {
	if !c.soft {
		return c.putFinal(ctx, p)
	}
	if w, ok := c.try.(someWriter); ok {
		return c.putParts(ctx, w, p)
	}
	rest := net.Buffers{p}
	n, err := c.putResumable(ctx, &rest)
	return int(n), err
}

// putParts writes p, as long as the socket takes something every WriteTimeout, and until ctx ends.
func (c *Conn) putParts(ctx context.Context, w someWriter, p []byte) (n int, err error) {
	c.watchWrite(ctx)
	defer c.nc.SetWriteDeadline(time.Time{})
	for progress := time.Now(); n < len(p); {
		c.armWrite(c.writeTimeout)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := w.writeSome(p[n:])
		n += m
		if m > 0 {
			progress = time.Now()
		}
		if err = c.judgeWrite(ctx, err, progress); err != nil {
			return n, err
		}
	}
	return n, nil
}

// judgeWrite returns why a write ends that came back with err; nil means to go on.
func (c *Conn) judgeWrite(ctx context.Context, err error, progress time.Time) error {
	switch {
	case err == nil || !isTimeout(err):
		return err
	case ctx.Err() != nil:
		return errInterrupted
	case c.writeTimeout > 0 && time.Since(progress) >= c.writeTimeout:
		return errStalled
	}
	return nil
}

// putResumable is putParts for buffers that go out together. When the last byte of a part was taken is only known to a
// sixteenth of WriteTimeout.
func (c *Conn) putResumable(ctx context.Context, rest *net.Buffers) (n int64, err error) {
	c.watchWrite(ctx)
	defer c.nc.SetWriteDeadline(time.Time{})
	progress := time.Now()
	for {
		c.armWrite((c.writeTimeout + stallSteps - 1) / stallSteps)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := rest.WriteTo(c.nc)
		n += m
		if m > 0 {
			progress = time.Now()
		}
		if err == nil {
			return n, nil
		}
		if err = c.judgeWrite(ctx, err, progress); err != nil {
			return n, err
		}
	}
}

// putFinal is putResumable for a connection on which a passed write deadline is final.
func (c *Conn) putFinal(ctx context.Context, p []byte) (n int, err error) {
	c.watchWrite(ctx)
	defer c.nc.SetWriteDeadline(time.Time{}) // TLS writes by itself too
	for n < len(p) {
		c.armWrite(c.writeTimeout)
		if ctx.Err() != nil {
			return n, errInterrupted
		}
		m, err := c.nc.Write(p[n:min(len(p), n+recordSize)])
		n += m
		if err != nil {
			return n, finalError(ctx, err)
		}
	}
	return n, nil
}

func (c *Conn) watchWrite(ctx context.Context) {
	if !c.writeWatch.is(ctx) {
		c.writeWatch.set(ctx, c.interruptWrite)
	}
}

// finalError says why a write that cannot be resumed ended.
func finalError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isTimeout(err):
		return errStalled
	}
	return err
}

func (c *Conn) interruptWrite() { c.nc.SetWriteDeadline(past) }

// armWrite sets the deadline of what is written next; 0 is none.
func (c *Conn) armWrite(d time.Duration) {
	if d > 0 {
		c.nc.SetWriteDeadline(time.Now().Add(d))
	} else {
		c.nc.SetWriteDeadline(time.Time{})
	}
}
