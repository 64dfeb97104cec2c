//go:build (darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

// This file compiles and passes vet for each of these systems, but has not been run on them.

import (
	"cmp"
	"os"
	"syscall"
	"time"
)

// A readiness is a kqueue. A wait blocks a thread, because the runtime's poller accepts only descriptors that can be
// made non-blocking. Only the goroutine of poller.run calls wait; any goroutine may call arm.
type readiness struct {
	file   *os.File
	raw    syscall.RawConn
	events [256]syscall.Kevent_t
	fds    []int // descriptors of the last events
}

// newReadiness returns an event queue without descriptors. The lock keeps a child process from inheriting the kqueue
// before it is marked (see syscall.ForkLock).
func newReadiness() (*readiness, error) {
	syscall.ForkLock.RLock()
	fd, err := syscall.Kqueue()
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, err
	}
	q := &readiness{file: os.NewFile(uintptr(fd), "kqueue")}
	q.raw, err = q.file.SyscallConn()
	return q, err
}

func (q *readiness) close() { q.file.Close() }

// arm makes wait return fd once, as soon as there are bytes to read or the peer has closed the connection.
func (q *readiness) arm(fd int) error {
	var change [1]syscall.Kevent_t
	syscall.SetKevent(&change[0], fd, syscall.EVFILT_READ, syscall.EV_ADD|syscall.EV_ONESHOT)
	_, err := q.kevent(change[:], nil, nil)
	return err
}

// wait returns the descriptors that have bytes. If until passes first, it returns os.ErrDeadlineExceeded. The slice is
// valid until the next call.
func (q *readiness) wait(until time.Time) ([]int, error) {
	rest := time.Until(until)
	if rest <= 0 {
		return nil, os.ErrDeadlineExceeded
	}
	timeout := syscall.NsecToTimespec(int64(rest))
	n, err := q.kevent(nil, q.events[:], &timeout)
	if err == syscall.EINTR {
		n, err = 0, nil
	}
	q.fds = q.fds[:0]
	for i := range max(n, 0) {
		q.fds = append(q.fds, int(q.events[i].Ident))
	}
	return q.fds, err
}

// kevent calls kevent(2), during which close does not close the descriptor.
func (q *readiness) kevent(changes, events []syscall.Kevent_t, timeout *syscall.Timespec) (n int, err error) {
	closed := q.raw.Control(func(kqueue uintptr) {
		n, err = syscall.Kevent(int(kqueue), changes, events, timeout)
	})
	return n, cmp.Or(closed, err)
}
