//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"crypto/tls"
	"net"
	"syscall"
)

// descriptor returns the descriptor of c if the socket holds all unread bytes once a read has met its deadline, or nil.
// This includes TLS, which decrypts all complete records before it waits for its socket.
func descriptor(c *Conn) syscall.RawConn {
	if s, ok := c.sock.(*rawSocket); ok {
		return s.conn
	}
	secure, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	var raw syscall.RawConn
	switch nc := secure.NetConn().(type) {
	case *net.TCPConn:
		raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		raw, _ = nc.SyscallConn()
	}
	return raw
}

// hasArrived reports whether the socket holds bytes from the peer. raw may be nil.
func hasArrived(raw syscall.RawConn) (arrived bool) {
	if raw != nil {
		raw.Control(func(fd uintptr) {
			n, _, _ := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			arrived = n > 0
		})
	}
	return arrived
}
