//go:build nosyscall || !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package websocket

import (
	"errors"
	"syscall"
	"time"
)

// On these systems no connection is enrolled. Goroutines wait for the messages of OnMessage.

// descriptor returns nil, so that no connection is enrolled.
func descriptor(*Conn) syscall.RawConn { return nil }

// hasArrived returns false: nothing is known before a read.
func hasArrived(*Conn) bool { return false }

// A readiness is never made.
type readiness struct{}

func newReadiness() (*readiness, error)                  { return nil, errors.ErrUnsupported }
func (*readiness) close()                                {}
func (*readiness) arm(int) error                         { return errors.ErrUnsupported }
func (*readiness) wait(time.Time) (fds []int, err error) { return nil, errors.ErrUnsupported }
