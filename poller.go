package websocket

// The poller: it finds the connections of OnMessage that have fallen silent, and waits for their next bytes, so that an
// idle connection needs no goroutine.

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
// A delivery and its slot pass through the same states. While messages arrive, a goroutine of delivery.run waits for
// them in the usual way, which is cheaper than an event for each. A sweep asks the connections to park that have been
// silent since the last one. The delivery enters into its slot when KeepAlive has to look after it (park), arms the
// event for its descriptor, and its goroutine ends. An event, a sweep that finds it due, and the end of the connection
// start another.
//
// Events name descriptors, not connections. An event may therefore reach a connection that has just been given the
// descriptor of one that was closed. It then reads, finds nothing and is parked again. An event is armed once for each
// parking, after the delivery has read all there was, and the system reports bytes that arrived in between.
type poller struct {
	mu    sync.Mutex // guards all below; a leaf
	ready *readiness // nil: no connection is enrolled; its methods need no lock
	slots []slot     // by descriptor
	count int        // of the deliveries in slots
	next  int        // the descriptor to sweep next
}

// A slot is the poller's entry for a descriptor.
type slot struct {
	d   *delivery
	due time.Duration // when to wake d if no bytes come, by now(); notParked while a goroutine reads
}

// polling is the poller of the process.
var polling poller

// enroll enters d, whose descriptor is fd. It returns false if the system offers no event queue.
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

// park has d woken when bytes arrive on its descriptor or it is due. It returns the queue in which the caller arms the
// event, or nil if d is not enrolled.
func (p *poller) park(d *delivery, fd int, due time.Duration) *readiness {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.holds(d, fd) {
		return nil
	}
	p.slots[fd].due = due
	return p.ready
}

// unpark notes that a goroutine reads for d again.
func (p *poller) unpark(d *delivery, fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds(d, fd) {
		p.slots[fd].due = notParked
	}
}

// A found holds the deliveries that a look at the slots has found, until they can be called without the mutex.
type found struct{ awake, woken []*delivery }

// call visits and wakes what was found. event says that there are bytes to read.
func (f *found) call(event bool) {
	for _, d := range f.awake {
		d.visit()
	}
	for _, d := range f.woken {
		d.wake(!event)
	}
	clear(f.awake)
	clear(f.woken)
	f.awake, f.woken = f.awake[:0], f.woken[:0]
}

// run waits for events and sweeps, until a sweep finds that no connection is left.
func (p *poller) run(ready *readiness) {
	defer ready.close()
	var f found
	for until := time.Now().Add(sweepEvery); ; {
		fds, err := ready.wait(until)
		switch {
		case err == nil:
			p.find(fds, &f)
			f.call(true)
		case err != os.ErrDeadlineExceeded:
			p.fail(&f)
			f.call(false)
			return
		case p.retire():
			return
		default:
			p.sweep(&f)
			f.call(false)
			until = time.Now().Add(sweepEvery)
		}
	}
}

// find finds the deliveries of descriptors.
func (p *poller) find(fds []int, f *found) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range fds {
		if fd < len(p.slots) && p.slots[fd].d != nil {
			f.woken = append(f.woken, p.slots[fd].d)
		}
	}
}

// sweep finds the parked deliveries that are due, and those that a goroutine serves.
func (p *poller) sweep(f *found) {
	at := now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for range min(len(p.slots), max(sweepLeast, len(p.slots)/10)) {
		p.next = (p.next + 1) % len(p.slots)
		switch s := p.slots[p.next]; {
		case s.d == nil:
		case s.due == notParked:
			f.awake = append(f.awake, s.d)
		case s.due <= at:
			f.woken = append(f.woken, s.d)
		}
	}
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

// fail gives up the event queue, which has failed, and finds its deliveries. Goroutines will wait for their messages.
func (p *poller) fail(f *found) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if s.d != nil {
			f.woken = append(f.woken, s.d)
		}
	}
	p.ready, p.slots, p.count, p.next = nil, nil, 0, 0
}

// Workers are the goroutines that serve connections which were woken. A worker that is done with a connection takes the
// next, so that many can be woken at once without as many goroutines, and stacks that have grown are used again. There
// is no limit on workers that are held up by a function of OnMessage: while connections wait, another worker is always on
// its way.
type workers struct {
	mu     sync.Mutex  // guards all below; a leaf
	queue  []*delivery // connections that wait for a worker
	coming bool        // a worker was called and has not looked at the queue yet
}

// theWorkers serve the connections of polling.
var theWorkers workers

// bell calls a resting worker.
var bell = make(chan struct{})

// workerRest is how long a worker waits for another connection.
const workerRest = 100 * time.Millisecond

// add has a worker serve d.
func (w *workers) add(d *delivery) {
	w.mu.Lock()
	w.queue = append(w.queue, d)
	call := !w.coming
	w.coming = true
	w.mu.Unlock()
	if call {
		w.call()
	}
}

// call wakes a worker that rests, or starts one.
func (w *workers) call() {
	select {
	case bell <- struct{}{}:
	default:
		go w.work()
	}
}

// take returns the next connection, or nil. It calls another worker if more of them wait. called says whether the caller
// is the worker that was on its way.
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
	w.queue = w.queue[1:]
	if len(w.queue) > 0 && !w.coming {
		w.coming = true
		w.call()
	}
	return d
}

// work serves connections until none has come for a while.
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
