//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"crypto/tls"
	"net"
	"syscall"
)

// descriptor returns the descriptor of nc if its bytes wait nowhere else once a read has met a deadline, or nil. A TLS
// connection decrypts all complete records before it waits for its socket.
func descriptor(nc net.Conn) syscall.RawConn {
	if secure, ok := nc.(*tls.Conn); ok {
		nc = secure.NetConn()
	}
	var raw syscall.RawConn
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		raw, _ = nc.SyscallConn()
	}
	return raw
}
