//go:build unix && !nosyscall

package websocket

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A rawSocket reads from and writes to the descriptor of a connection itself, so that a reader can wait
// without a buffer and a writer can try without waiting.
type rawSocket struct {
	conn syscall.RawConn

	// Of the write under way; whoever has the socket for writing owns them.
	writeFn  func(fd uintptr) bool
	src      []byte
	writeN   int
	writeErr error
	wait     bool // for the socket to take something

	// Of the read under way; whoever holds the read turn owns them.
	readFn  func(fd uintptr) bool
	dst     []byte // where to, or nil for a pooled buffer
	size    int    // of that buffer
	readBuf *buffer
	readN   int
	readErr error
}

// newSocket returns nil where only net.Conn's own methods may be used: a type that embeds a *net.TCPConn may
// do more in its Read than read(2).
func newSocket(nc net.Conn) socket {
	var conn syscall.RawConn
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		conn, err = nc.SyscallConn()
	case *net.UnixConn:
		conn, err = nc.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	s := &rawSocket{conn: conn}
	s.readFn, s.writeFn = s.reading(), s.writing()
	return s
}

// read waits for bytes and reads them into p.
func (s *rawSocket) read(p []byte) (int, error) {
	s.dst, s.readN = p, 0 // a deadline that has passed keeps readFn from being called
	err := s.conn.Read(s.readFn)
	s.dst = nil
	if err == nil {
		err = s.readErr
	}
	return s.readN, err
}

// waitRead waits for bytes and reads them into a new buffer of at least the given size.
func (s *rawSocket) waitRead(b **buffer, size int) (int, error) {
	s.size, s.readN = size, 0
	err := s.conn.Read(s.readFn)
	if err == nil {
		err = s.readErr
	}
	if s.readN > 0 {
		*b = s.readBuf
	}
	s.readBuf = nil
	return s.readN, err
}

// reading returns what reads once. It is made once, for each would be an allocation, and not a method, whose wrapper
// would take of the stack. It returns false only after EAGAIN: the poller tells of bytes that come after it, and of no
// others.
func (s *rawSocket) reading() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		dst := s.dst
		if dst == nil {
			s.readBuf = getBuffer(s.size)
			dst = s.readBuf.b[:cap(s.readBuf.b)]
		}
		n, err := syscall.Read(int(fd), dst)
		for err == syscall.EINTR {
			n, err = syscall.Read(int(fd), dst)
		}
		return s.hasRead(n, err)
	}
}

// hasRead notes the result of a read(2), and returns false if it is to be tried again.
func (s *rawSocket) hasRead(n int, err error) bool {
	s.readN, s.readErr = max(n, 0), nil
	if s.readBuf != nil {
		s.readBuf.b = s.readBuf.b[:s.readN]
	}
	if n > 0 {
		return true
	}
	s.readBuf.free()
	s.readBuf = nil
	if err == syscall.EAGAIN {
		return false
	}
	s.readErr = io.EOF
	if err != nil {
		s.readErr = os.NewSyscallError("read", err)
	}
	return true
}

// writeSome waits until a part of p is taken.
func (s *rawSocket) writeSome(p []byte) (int, error) {
	s.wait = true
	n, err := s.tryWrite(p)
	s.wait = false
	return n, err
}

// tryWrite writes what the socket takes at once, which may be nothing.
func (s *rawSocket) tryWrite(p []byte) (int, error) {
	s.src, s.writeN, s.writeErr = p, 0, nil
	err := s.conn.Write(s.writeFn)
	s.src = nil
	if err == nil {
		err = s.writeErr
	}
	return s.writeN, err
}

func (s *rawSocket) writing() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		n, err := syscall.Write(int(fd), s.src)
		for err == syscall.EINTR {
			n, err = syscall.Write(int(fd), s.src)
		}
		s.writeN = max(n, 0)
		if err == syscall.EAGAIN {
			return !s.wait
		}
		if err != nil {
			s.writeErr = os.NewSyscallError("write", err)
		}
		return true
	}
}

// drained reports whether no byte of the peer waits to be read.
func (s *rawSocket) drained() (drained bool) {
	err := s.conn.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		drained = n == 0 || err == syscall.EAGAIN
	})
	return drained && err == nil
}
