//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"crypto/tls"
	"net"
	"syscall"
)

// descriptor returns the descriptor of c if its bytes wait nowhere else once a read has met a deadline, or nil. A TLS
// connection decrypts all complete records before it waits for its socket.
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

// hasArrived reports whether bytes of the peer wait in the socket.
func hasArrived(raw syscall.RawConn) (arrived bool) {
	if raw != nil {
		raw.Control(func(fd uintptr) {
			n, _, _ := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			arrived = n > 0
		})
	}
	return arrived
}
