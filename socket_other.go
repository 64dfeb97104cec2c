//go:build !unix || nosyscall

package websocket

import "net"

// newSocket returns nil: here only net.Conn's own methods may be used.
func newSocket(net.Conn) socket { return nil }
