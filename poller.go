package websocket

// The poller finds the connections with OnMessage that have fallen silent, and waits for their next bytes. An idle
// connection then needs no goroutine.

import (
	"math"
	"os"
	"sync"
	"time"
)

const (
	sweepEvery = 100 * time.Millisecond // a connection that is silent from one sweep to the next is parked
	sweepLeast = 8 << 10                // descriptors that a sweep visits, or a tenth of all if that is more

	// notParked and neverDue are special values of slot.due.
	notParked time.Duration = 0
	neverDue  time.Duration = math.MaxInt64
)

// A poller waits for bytes on parked connections with the system's event queue (readiness). One goroutine runs it while
// any connection is enrolled.
//
// While messages arrive, a goroutine of delivery.run waits for them in the usual way, which is cheaper than an event
// for each. A sweep asks connections that have been silent since the last sweep to park. To park, the delivery enters
// in its slot when KeepAlive needs it next, arms the event for its descriptor, and ends its goroutine. An event, a
// sweep that finds the slot due, or the end of the connection starts another goroutine.
//
// Events name descriptors, not connections. An event may therefore reach a connection that has just been given the
// descriptor of a closed one. That connection reads, finds nothing and is parked again. An event is armed once for each
// parking, after the delivery has read all available bytes; the system also reports bytes that arrived in between.
type poller struct {
	mu    sync.Mutex // guards all below; no other mutex is taken while it is held
	ready *readiness // nil while no connection is enrolled; its methods need no lock
	slots []slot     // by descriptor
	count int        // number of deliveries in slots
	next  int        // the descriptor to sweep next
}

// A slot is the poller's entry for a descriptor. A sweep reads the slots of parked connections and not their
// deliveries, which are spread over the heap.
type slot struct {
	d   *delivery
	due time.Duration // when to wake d if no bytes come, by now(); notParked while a goroutine reads
}

// polling is the only poller of the process.
var polling poller

// enroll registers d, whose descriptor is fd. It returns false if the system offers no event queue.
func (p *poller) enroll(d *delivery, fd int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		ready, err := newReadiness()
		if err != nil {
			return false
		}
		p.ready = ready
		go p.run(ready)
	}
	for fd >= len(p.slots) {
		p.slots = append(p.slots, slot{})
	}
	if old := p.slots[fd].d; old == nil {
		p.count++
	} else { // it has yet to leave, or does not know that its descriptor was closed
		go old.wake(true)
	}
	p.slots[fd] = slot{d, notParked}
	return true
}

// leave removes d.
func (p *poller) leave(d *delivery, fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds(d, fd) {
		p.slots[fd] = slot{}
		p.count--
	}
}

// holds reports whether d is enrolled. mu is held.
func (p *poller) holds(d *delivery, fd int) bool {
	return fd >= 0 && fd < len(p.slots) && p.slots[fd].d == d
}

// setDue sets when to wake d, or notParked. It returns the queue in which the caller arms the event that wakes d when
// bytes arrive, or nil if d is not enrolled.
func (p *poller) setDue(d *delivery, fd int, due time.Duration) *readiness {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.holds(d, fd) {
		return nil
	}
	p.slots[fd].due = due
	return p.ready
}

// run waits for events and sweeps, until a sweep finds that no connection is left.
func (p *poller) run(ready *readiness) {
	defer ready.close()
	for until := time.Now().Add(sweepEvery); ; {
		fds, err := ready.wait(until)
		switch {
		case err == nil:
			p.report(fds)
		case err != os.ErrDeadlineExceeded:
			p.fail()
			return
		case p.retire():
			return
		default:
			p.sweep()
			until = time.Now().Add(sweepEvery)
		}
	}
}

// report wakes the deliveries of the given descriptors, which have bytes. It does nothing for deliveries that are not
// parked.
func (p *poller) report(fds []int) {
	for _, fd := range fds {
		if d := p.at(fd).d; d != nil {
			d.wake(false)
		}
	}
}

// at returns the slot of a descriptor.
func (p *poller) at(fd int) (s slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd < len(p.slots) {
		s = p.slots[fd]
	}
	return s
}

// sweep visits the next part of the slots. It wakes the parked deliveries that are due, and looks whether the others
// have fallen silent. The mutex is free while it calls a delivery, whose mutex comes first.
func (p *poller) sweep() {
	at := now()
	first, n := p.share()
	for fd := first; fd < first+n; fd++ {
		switch s := p.at(fd); {
		case s.d == nil:
		case s.due == notParked:
			s.d.visit()
		case s.due <= at:
			s.d.wake(true)
		}
	}
}

// share returns the slots that the next sweep visits: all of them if they are few, or the next of ten parts.
func (p *poller) share() (first, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next >= len(p.slots) {
		p.next = 0
	}
	first = p.next
	n = min(len(p.slots)-first, max(sweepLeast, len(p.slots)/10))
	p.next += n
	return first, n
}

// retire reports whether run may end, because no connection is enrolled.
func (p *poller) retire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		p.ready, p.slots, p.next = nil, nil, 0
	}
	return p.count == 0
}

// fail gives up the event queue, which has failed, and wakes all deliveries. From then on, goroutines wait for their
// messages.
func (p *poller) fail() {
	p.mu.Lock()
	slots := p.slots
	p.ready, p.slots, p.count, p.next = nil, nil, 0, 0
	p.mu.Unlock()
	for _, s := range slots {
		if s.d != nil {
			s.d.wake(true)
		}
	}
}

// A workers runs the deliveries of woken connections. A worker that has finished with one connection takes the next, so
// many connections can be woken at once without as many goroutines. The number of workers has no limit, because a
// function of OnMessage may block its worker: while connections wait, another worker has always been called.
//
// A worker rests before it ends. Waking it, with its grown stack, takes a fifth less CPU for a message of a parked
// connection than starting another.
type workers struct {
	mu     sync.Mutex  // guards all below; no other mutex is taken while it is held
	queue  []*delivery // connections that wait for a worker
	coming bool        // a worker was called and has not looked at the queue yet
}

// theWorkers serve the connections of polling.
var theWorkers workers

// bell wakes a resting worker.
var bell = make(chan struct{})

// workerRest is how long a worker waits for another connection.
const workerRest = 100 * time.Millisecond

// add queues d for a worker.
func (w *workers) add(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, d)
	w.call()
}

// call wakes a resting worker or, if there is none, starts one, unless a worker is coming already. mu is held.
func (w *workers) call() {
	if w.coming {
		return
	}
	w.coming = true
	select {
	case bell <- struct{}{}:
	default:
		go w.work()
	}
}

// take returns the next connection, or nil. If more connections wait, it calls another worker. called reports whether
// the caller is the worker that was called last.
func (w *workers) take(called bool) *delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	if called {
		w.coming = false
	}
	if len(w.queue) == 0 {
		w.queue = nil
		return nil
	}
	d := w.queue[0]
	w.queue[0] = nil
	if w.queue = w.queue[1:]; len(w.queue) > 0 {
		w.call()
	}
	return d
}

// work serves connections until none has arrived for workerRest.
func (w *workers) work() {
	rest := time.NewTimer(workerRest)
	defer rest.Stop()
	for {
		for d := w.take(true); d != nil; d = w.take(false) {
			d.run()
		}
		rest.Reset(workerRest)
		select {
		case <-bell:
		case <-rest.C:
			return
		}
	}
}
