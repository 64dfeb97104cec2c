//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"crypto/tls"
	"syscall"
)

// pollable returns the socket of c if it holds all unread bytes once a read has met its deadline, or nil. That includes
// TLS, which decrypts all complete records before it waits for its socket.
func pollable(c *Conn) *rawSocket {
	s := c.sock
	if secure, ok := c.nc.(*tls.Conn); ok {
		s = newSocket(secure.NetConn())
	}
	raw, _ := s.(*rawSocket)
	return raw
}

// descriptor returns the descriptor of a pollable connection, or nil.
func descriptor(c *Conn) syscall.RawConn {
	if s := pollable(c); s != nil {
		return s.conn
	}
	return nil
}

// hasArrived reports whether the socket of a pollable connection holds bytes from the peer.
func hasArrived(c *Conn) (arrived bool) {
	if raw := descriptor(c); raw != nil {
		raw.Control(func(fd uintptr) {
			n, _, _ := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			arrived = n > 0
		})
	}
	return arrived
}
