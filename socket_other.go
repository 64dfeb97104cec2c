//go:build !unix || nosyscall

package websocket

import "net"

// newSocket returns nil: in this build the package uses only the methods of net.Conn.
func newSocket(net.Conn) socket { return nil }
