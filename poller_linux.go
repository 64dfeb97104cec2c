//go:build linux && !nosyscall

package websocket

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// A readiness is an epoll instance. The runtime's own poller watches its descriptor, so that a wait blocks a goroutine
// and not a thread. Only the goroutine of poller.run calls wait; any goroutine may call arm.
type readiness struct {
	file   *os.File
	raw    syscall.RawConn
	until  time.Time // the deadline of file
	events [256]syscall.EpollEvent
	fds    []int // those of the last events
}

func newReadiness() (*readiness, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err = syscall.SetNonblock(fd, true); err != nil { // or NewFile does not give it to the runtime's poller
		syscall.Close(fd)
		return nil, err
	}
	q := &readiness{file: os.NewFile(uintptr(fd), "epoll")}
	if q.raw, err = q.file.SyscallConn(); err == nil {
		err = q.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		q.file.Close()
		return nil, err
	}
	return q, nil
}

func (q *readiness) close() { q.file.Close() }

// arm has wait return fd once, as soon as there are bytes to read or the peer has gone.
func (q *readiness) arm(fd int) error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
	var err error
	closed := q.raw.Control(func(epoll uintptr) { // during which close does not close the descriptor
		err = syscall.EpollCtl(int(epoll), syscall.EPOLL_CTL_MOD, fd, &event)
		if err == syscall.ENOENT {
			err = syscall.EpollCtl(int(epoll), syscall.EPOLL_CTL_ADD, fd, &event)
		}
	})
	return errors.Join(closed, err)
}

// wait returns the descriptors that have bytes. Its error is os.ErrDeadlineExceeded when until has come. The slice is
// valid until the next call.
func (q *readiness) wait(until time.Time) ([]int, error) {
	if until != q.until {
		q.until = until
		q.file.SetReadDeadline(until)
	}
	var n int
	var failed error
	err := q.raw.Read(func(epoll uintptr) bool {
		n, failed = syscall.EpollWait(int(epoll), q.events[:], 0)
		for failed == syscall.EINTR {
			n, failed = syscall.EpollWait(int(epoll), q.events[:], 0)
		}
		return n != 0 // and not after an error, for which n is -1
	})
	q.fds = q.fds[:0]
	for _, event := range q.events[:max(n, 0)] {
		q.fds = append(q.fds, int(event.Fd))
	}
	switch {
	case err == nil:
		err = failed
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	}
	return q.fds, err
}
