//go:build unix && !nosyscall

package websocket

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A rawSocket reads from and writes to the descriptor of a connection directly, so that a reader can wait without a
// buffer and a writer can try without waiting. The runtime's poller still does the waiting, and deadlines set on the
// net.Conn apply.
//
// The functions that RawConn calls are made once. They take their arguments from the fields below, and leave their
// results there.
type rawSocket struct {
	conn syscall.RawConn

	// State of the current write. The owner of the socket (writer.busy) owns these fields.
	writeFn  func(fd uintptr) bool
	src      []byte
	writeN   int
	writeErr syscall.Errno
	wait     bool // wait until the socket accepts something

	// State of the current read. The holder of the reader's turn owns these fields.
	once    bool  // read once instead of waiting for bytes
	size    int32 // least size of the pooled buffer
	readFn  func(fd uintptr) bool
	dst     []byte // to read into; nil for a pooled buffer
	readBuf *buffer
	readN   int
	readErr syscall.Errno
}

// maxWrite is the most bytes for one write(2). macOS and FreeBSD refuse 2 GiB and more instead of writing a part. The net
// package has the same limit.
const maxWrite = 1 << 30

// newSocket returns a socket for nc, or nil if only the methods of nc may be used. A type that embeds a *net.TCPConn
// gets none, because its Read may do more than read(2).
func newSocket(nc net.Conn) socket {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	conn, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &rawSocket{conn: conn}
	s.readFn, s.writeFn = s.reading(), s.writing()
	return s
}

// read waits for bytes and reads them into p. See waitRead for once.
func (s *rawSocket) read(p []byte, once bool) (int, error) {
	s.dst, s.readN, s.once = p, 0, once // a deadline that has passed keeps readFn from being called
	err := s.conn.Read(s.readFn)
	s.dst = nil
	return s.readN, s.readError(err)
}

// waitRead waits for bytes and reads them into a new buffer of at least the given size. With once it does not wait: if
// there are no bytes, the error is errWouldBlock.
func (s *rawSocket) waitRead(b **buffer, size int, once bool) (int, error) {
	s.size, s.readN, s.once = int32(size), 0, once
	err := s.readError(s.conn.Read(s.readFn))
	if s.readN > 0 {
		*b = s.readBuf
	}
	s.readBuf = nil
	return s.readN, err
}

// reading returns the function that reads once, for RawConn.Read. It is made once per socket, because a closure for
// each read would allocate. It is not a method value, because the wrapper would need more stack. It returns false only
// after EAGAIN: the runtime's poller reports only bytes that arrive after that.
func (s *rawSocket) reading() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		dst := s.dst
		if dst == nil {
			s.readBuf = getBuffer(int(s.size))
			dst = s.readBuf.b[:cap(s.readBuf.b)]
		}
		s.readErr = syscall.EINTR
		for s.readErr == syscall.EINTR {
			n, err := syscall.Read(int(fd), dst)
			s.readN, s.readErr = max(n, 0), errnoOf(err)
		}
		return s.hasRead()
	}
}

// hasRead ends a read(2). It returns false if the read should be repeated when bytes have arrived.
func (s *rawSocket) hasRead() bool {
	if s.readBuf != nil {
		s.readBuf.b = s.readBuf.b[:s.readN]
	}
	if s.readN > 0 {
		return true
	}
	s.readBuf.free()
	s.readBuf = nil
	return s.once || s.readErr != syscall.EAGAIN
}

// readError returns the error of a read whose call of RawConn.Read returned err.
func (s *rawSocket) readError(err error) error {
	switch {
	case err != nil || s.readN > 0:
		return err
	case s.readErr == syscall.EAGAIN:
		return errWouldBlock
	case s.readErr != 0:
		return os.NewSyscallError("read", s.readErr)
	}
	return io.EOF
}

// errnoOf returns the number of an error of the syscall package. It takes half the memory of an error value.
func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno)
	return errno
}

// writeSome waits until the socket accepts a part of p.
func (s *rawSocket) writeSome(p []byte) (int, error) {
	s.wait = true
	n, err := s.tryWrite(p)
	s.wait = false
	return n, err
}

// tryWrite writes as much of p as the socket accepts at once, which may be nothing.
func (s *rawSocket) tryWrite(p []byte) (int, error) {
	s.src, s.writeN, s.writeErr = p, 0, 0
	err := s.conn.Write(s.writeFn)
	s.src = nil
	if err == nil && s.writeErr != 0 {
		err = os.NewSyscallError("write", s.writeErr)
	}
	return s.writeN, err
}

// writing returns the function that writes once, for RawConn.Write. It returns false only if it should wait.
func (s *rawSocket) writing() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		s.writeErr = syscall.EINTR // a signal interrupted the call before it wrote anything
		for s.writeErr == syscall.EINTR {
			n, err := syscall.Write(int(fd), s.src[:min(len(s.src), maxWrite)])
			s.writeN, s.writeErr = max(n, 0), errnoOf(err)
		}
		if s.writeErr == syscall.EAGAIN {
			s.writeErr = 0
			return !s.wait
		}
		return true
	}
}

// drained reports whether no byte is waiting to be read. If there are bytes, it reads them into p. At the end of the
// stream, and on a connection that has failed, nothing is left to read. A deadline that has passed hides the answer, so
// the result is then false.
func (s *rawSocket) drained(p []byte) bool {
	s.dst, s.readN, s.once = p, 0, true
	err := s.conn.Read(s.readFn)
	s.dst = nil
	return err == nil && s.readN == 0
}
