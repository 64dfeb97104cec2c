package main

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// The operations that the process under test starts itself: many writers, pushes, broadcasts, clients.

// lockedConn serializes the writers of a library that allows one writer at a time.
type lockedConn struct {
	conn
	mu sync.Mutex
}

func (l *lockedConn) send(text bool, p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn.send(text, p)
}

// writers has q.Goroutines write to one connection for q.Duration.
func (h *hub) writers(lib library, q request) (int64, error) {
	c, err := h.last()
	if err != nil {
		return 0, err
	}
	if !lib.ownLock {
		c = &lockedConn{conn: c}
	}
	payload := pattern(q.Size)
	var stop atomic.Bool
	time.AfterFunc(q.Duration, func() { stop.Store(true) })
	var total atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range q.Goroutines {
		wg.Go(func() {
			n, err := sendUntil(&stop, c, payload)
			if err != nil {
				failed.Store(&err)
			}
			total.Add(n)
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return total.Load(), nil
}

func sendUntil(stop *atomic.Bool, c conn, payload []byte) (n int64, err error) {
	for ; !stop.Load(); n++ {
		if err := c.send(false, payload); err != nil {
			return n, err
		}
	}
	return n, nil
}

// push sends the corpus to one connection repeatedly, or once if there is no duration.
func (h *hub) push(q request) (int64, error) {
	c, err := h.last()
	if err != nil {
		return 0, err
	}
	docs := corpus(q.Size)
	n := int64(0)
	for start := time.Now(); ; {
		for _, d := range docs {
			if err := c.send(true, d); err != nil {
				return n, err
			}
			n++
		}
		if time.Since(start) >= q.Duration {
			return n, nil
		}
	}
}

// broadcast sends q.Burst new messages to all connections.
func (h *hub) broadcast(lib library, q request) (int64, error) {
	cs := h.all(q.Conns)
	if len(cs) != q.Conns {
		return 0, fmt.Errorf("%d connections, not %d", len(h.conns), q.Conns)
	}
	p := corpus(q.Size)[0]
	for range q.Burst {
		if err := broadcast(lib, cs, p); err != nil {
			return 0, err
		}
	}
	return int64(q.Burst * len(cs)), nil
}

func broadcast(lib library, cs []conn, p []byte) error {
	if lib.broadcast != nil {
		return lib.broadcast(cs, p)
	}
	for _, c := range cs {
		if err := c.send(false, p); err != nil {
			return err
		}
	}
	return nil
}

// clients are client connections that exchange echoes with the load generator.
type clients struct {
	conns   []conn
	payload []byte
	count   atomic.Int64
	wrong   atomic.Bool
	started atomic.Bool // every connection has sent its first message of the slice
	stop    atomic.Bool
	round   sync.WaitGroup
}

func (cl *clients) dial(lib library, q request) error {
	for _, c := range cl.conns {
		_ = c.shut(1000, "")
	}
	cl.conns, cl.payload = nil, pattern(q.Size)
	checked := make(map[conn]bool)
	var mu sync.Mutex
	ev := events{message: func(c conn, text bool, p []byte) {
		if cl.count.Add(1) <= int64(2*q.Conns) { // compare every byte in the first round of each
			mu.Lock()
			if !checked[c] {
				checked[c] = true
				if !bytes.Equal(p, cl.payload) {
					cl.wrong.Store(true)
				}
			}
			mu.Unlock()
		}
		for !cl.started.Load() { // not every library allows two writers
			runtime.Gosched()
		}
		if cl.stop.Load() || c.send(false, cl.payload) != nil {
			cl.round.Done()
		}
	}}.withDefaults()
	cl.count.Store(0)
	for range q.Conns {
		c, err := lib.dial("ws://"+q.Addr+"/", q.Options, ev)
		if err != nil {
			return err
		}
		cl.conns = append(cl.conns, c)
	}
	return nil
}

// run has all clients echo for q.Duration, one message in flight on each.
func (cl *clients) run(q request) (int64, error) {
	cl.stop.Store(false)
	cl.started.Store(false)
	before := cl.count.Load()
	cl.round.Add(len(cl.conns))
	for _, c := range cl.conns {
		if err := c.send(false, cl.payload); err != nil {
			return 0, err
		}
	}
	cl.started.Store(true)
	time.Sleep(q.Duration)
	cl.stop.Store(true)
	cl.round.Wait()
	if cl.wrong.Load() {
		return 0, errors.New("echo differs")
	}
	return cl.count.Load() - before, nil
}
