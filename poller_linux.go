//go:build linux && !nosyscall

package websocket

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// A readiness is an epoll instance. The runtime's own poller watches its descriptor, so a wait blocks a goroutine, not a
// thread. Only the goroutine of poller.run calls wait; any goroutine may call arm.
type readiness struct {
	fd   int
	file *os.File // of fd

	mu     sync.RWMutex // held for reading while arm uses fd, so that close waits
	closed bool         // guarded by mu

	raw    syscall.RawConn
	look   func(fd uintptr) bool // is made once, because a closure for each wait would allocate
	until  time.Time             // the deadline of file
	n      int                   // events of the last look, or -1
	err    error                 // of the last look
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
	q := &readiness{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	q.look = q.looking()
	if q.raw, err = q.file.SyscallConn(); err == nil {
		err = q.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		q.file.Close()
		return nil, err
	}
	return q, nil
}

// close releases the queue. It waits for calls of arm, and later ones return an error.
func (q *readiness) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.file.Close()
}

// arm makes wait return fd once, as soon as there are bytes to read or the peer has closed the connection.
func (q *readiness) arm(fd int) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return os.ErrClosed
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
	err := syscall.EpollCtl(q.fd, syscall.EPOLL_CTL_MOD, fd, &event)
	if err == syscall.ENOENT {
		err = syscall.EpollCtl(q.fd, syscall.EPOLL_CTL_ADD, fd, &event)
	}
	return err
}

// wait returns the descriptors that have bytes. If until passes first, it returns os.ErrDeadlineExceeded. The slice is
// valid until the next call.
func (q *readiness) wait(until time.Time) ([]int, error) {
	if until != q.until {
		q.until = until
		q.file.SetReadDeadline(until)
	}
	q.n, q.err = 0, nil // a deadline that has passed keeps look from being called
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

// looking returns the function that asks for events, for RawConn.Read.
func (q *readiness) looking() func(epoll uintptr) bool {
	return func(epoll uintptr) bool {
		q.n, q.err = syscall.EpollWait(int(epoll), q.events[:], 0)
		for q.err == syscall.EINTR {
			q.n, q.err = syscall.EpollWait(int(epoll), q.events[:], 0)
		}
		return q.n != 0 // after an error, n is -1
	}
}
