//go:build linux && !nosyscall

package websocket

import (
	"cmp"
	"errors"
	"os"
	"syscall"
	"time"
)

// A readiness is an epoll instance. The runtime's own poller watches its descriptor, so a wait blocks a goroutine, not
// a thread. Only the goroutine of poller.run calls wait, which owns all fields but file and raw; any goroutine may call
// arm and close.
type readiness struct {
	file   *os.File
	raw    syscall.RawConn          // of file
	look   func(epoll uintptr) bool // made once, because a closure for each wait would allocate
	until  time.Time                // the deadline of file
	n      int                      // events of the last look, or -1
	err    error                    // of the last look
	events [256]syscall.EpollEvent
	fds    []int // descriptors of the last events
}

// newReadiness returns an event queue without descriptors.
func newReadiness() (*readiness, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err = syscall.SetNonblock(fd, true); err != nil { // otherwise NewFile does not give it to the runtime's poller
		syscall.Close(fd)
		return nil, err
	}
	q := &readiness{file: os.NewFile(uintptr(fd), "epoll")}
	q.look = q.looking()
	if q.raw, err = q.file.SyscallConn(); err == nil {
		err = q.file.SetReadDeadline(time.Time{}) // fails if the runtime's poller does not watch the descriptor
	}
	if err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// close releases the queue. It waits for calls of arm, and later ones return an error.
func (q *readiness) close() { q.file.Close() }

// arm makes wait return fd once, as soon as there are bytes to read or the peer has closed the connection. If either is
// already the case, wait returns fd at once. The runtime's poller watches fd as well; neither disturbs the other.
// Closing fd removes it from both, so nothing disarms it.
func (q *readiness) arm(fd int) (err error) {
	closed := q.raw.Control(func(epoll uintptr) {
		event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
		err = syscall.EpollCtl(int(epoll), syscall.EPOLL_CTL_MOD, fd, &event)
		if err == syscall.ENOENT { // the first time; closing a descriptor removes it
			err = syscall.EpollCtl(int(epoll), syscall.EPOLL_CTL_ADD, fd, &event)
		}
	})
	return cmp.Or(closed, err)
}

// wait returns the descriptors that have bytes. If until passes first, it returns os.ErrDeadlineExceeded. The slice is
// valid until the next call.
func (q *readiness) wait(until time.Time) ([]int, error) {
	if until != q.until {
		q.until = until
		q.file.SetReadDeadline(until)
	}
	q.n, q.err = 0, nil // after the deadline, look is not called
	err := q.raw.Read(q.look)
	q.fds = q.fds[:0]
	for _, event := range q.events[:max(q.n, 0)] {
		q.fds = append(q.fds, int(event.Fd))
	}
	switch {
	case err == nil:
		err = q.err
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	}
	return q.fds, err
}

// looking returns the function that asks for events, for RawConn.Read. It returns false if there are none, and
// RawConn.Read calls it again when the runtime's poller reports that the epoll instance has some.
func (q *readiness) looking() func(epoll uintptr) bool {
	return func(epoll uintptr) bool {
		q.n, q.err = syscall.EpollWait(int(epoll), q.events[:], 0)
		for q.err == syscall.EINTR {
			q.n, q.err = syscall.EpollWait(int(epoll), q.events[:], 0)
		}
		return q.n != 0 // after an error, n is -1
	}
}
