package websocket

import (
	"cmp"
	"context"
	"errors"
	"log"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// OnMessage registers f to be called with each message that arrives from now on, and returns at once. The calls are
// made one at a time and in order, on a goroutine of the package. f may block. The Data of a message is valid until f
// returns.
//
// In the last call, err is the error that every later read returns, and m is the zero Message. In all other calls, err
// is nil. If the connection has already ended, f is called once, with its error. Another call of OnMessage replaces f,
// beginning with the next message. OnMessage(nil) stops the delivery without losing a message. f may be called once
// more, with a message that was already being read. After a running call of f returns, the other read methods work
// again.
//
// While f is set, pings are answered and the peer's close frame is handled. The other read methods return an error,
// even if they were already waiting, with one exception: while f is running, Read, Reader and ReadJSON return the next
// messages. f may call any other method except Ping, because the goroutine that runs f would have to read the answer.
//
// On Linux, macOS and the BSDs a connection over TCP, a unix socket or TLS holds no goroutine while it is idle. On
// other systems, and over HTTP/2, a Pipe or any other net.Conn, a goroutine waits for its messages.
//
// A serve function of Handler or Serve may call OnMessage and return. The connection then stays open. The same holds
// for a handler that called Upgrade over HTTP/1.1. If f panics, the connection is closed with StatusInternalError, the
// panic is logged (see Options.ErrorLog), and f is not called again.
func (c *Conn) OnMessage(f func(m Message, err error)) {
	c.in.onMessage(f)
}

// onMessage is Conn.OnMessage. A reader without a function has no delivery until the first call.
func (r *reader) onMessage(f func(Message, error)) {
	if r.deliver.Load() == nil {
		if f == nil {
			return
		}
		r.deliver.CompareAndSwap(nil, &delivery{r: r, fd: noDescriptor})
	}
	r.deliver.Load().set(f)
}

var (
	errDelivered = errors.New("websocket: OnMessage receives the messages of this connection")

	// errParked ends a read of run that would wait. Only nextFor returns it.
	errParked = errors.New("websocket: the poller waits for the next message")
)

// A deliveryState records which goroutine, if any, serves a connection with OnMessage.
type deliveryState uint8

const (
	// deliveryIdle: no goroutine runs, because no function is set or its last call was made.
	deliveryIdle deliveryState = iota

	// deliveryWaiting: a goroutine of run reads, or waits for bytes.
	deliveryWaiting

	// deliveryCalling: that goroutine runs the function, and other reads may return the messages that follow.
	deliveryCalling

	// deliveryParked: the poller waits for bytes, and the reader's turn is free.
	deliveryParked
)

// noDescriptor is the descriptor of a connection that the poller cannot wait for. A goroutine waits instead.
const noDescriptor = -1

// A delivery calls the function of OnMessage. Its state says which goroutine, if any, serves the connection:
//
//	idle -- set --> waiting <-- begin, finish --> calling
//	                waiting -- park --> parked -- wake --> waiting
//
// All of them return to idle when no function is set or its last call was made.
//
// While the connection is parked, it holds no goroutine, and no buffer unless a part of a message has arrived, which
// stays in the reader. The poller has the descriptor, whose event is armed, and the time of the next KeepAlive ping.
// Bytes (wake), that time (wake) or the verdict (ended) let a worker call run again. Writes need none of this. The
// reader's turn is free, but other reads are refused while a function is set.
//
// Any goroutine may call set, isSet, stops, visit, wake and ended, which call enroll, start and unpark; isSet accepts a
// nil delivery. The other methods belong to the goroutine of run, which takes mu only twice for each message, in begin
// and finish.
type delivery struct {
	r       *reader     // does not change
	on      atomic.Bool // a function is set; changes while mu is held
	parking atomic.Bool // run should park instead of waiting; changes while mu is held
	woken   atomic.Bool // set interrupted a wait, which is not a failure of the connection

	mu      sync.Mutex           // guards all below; taken after the mutex of ending, and before that of poller
	f       func(Message, error) // the last function set; nil until the first
	since   time.Duration        // when the silence of a parked connection began, by now(); 0 after bytes have come
	fd      int                  // enrolled in the poller, or noDescriptor
	state   deliveryState
	renewed bool // set was called since the last call of the function began
	quiet   bool // no message has come since the last visit
}

// set replaces the function and starts run, if it is not running yet. It interrupts a read that waits, which may have
// to end: another read if f is set, or that of run if f is nil.
func (d *delivery) set(f func(Message, error)) {
	d.mu.Lock()
	if d.f == nil && f != nil {
		d.enroll()
	}
	start := f != nil && d.state == deliveryIdle
	switch {
	case start:
		d.state = deliveryWaiting
		d.parking.Store(d.fd != noDescriptor) // the poller says whether bytes have arrived
	case f == nil && d.state == deliveryParked:
		d.state = deliveryIdle
		polling.setDue(d, d.fd, notParked)
	}
	if f != nil {
		d.f = f
	}
	d.on.Store(f != nil)
	d.renewed = true
	d.woken.Store(true)
	d.mu.Unlock()
	if start {
		d.start()
	}
	if d.r.c.end.failure() != nil {
		d.ended() // which may have been called before enroll
	} else {
		d.r.interrupt() // a waiting read then calls stopped
	}
}

// enroll registers the connection with the poller, if the poller can wait for it. mu is held.
func (d *delivery) enroll() {
	raw := descriptor(d.r.c)
	if raw == nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if polling.enroll(d, int(fd)) {
			d.fd = int(fd)
		}
	})
}

// isSet reports whether a function is set.
func (d *delivery) isSet() bool { return d != nil && d.on.Load() }

// stops reports whether a read has to end. delivering says that it is a read of run, which has to end if no function is
// set, and run with it. Any other read has to end while a function is set, unless the function is running. A read
// during the function may be its own.
func (d *delivery) stops(delivering bool) bool {
	if d.on.Load() == delivering {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.on.Load() == delivering:
		return false
	case delivering:
		d.state = deliveryIdle
		return true
	}
	return d.state != deliveryCalling
}

// start calls run on another goroutine: a worker if the poller serves the connection, otherwise a new one.
func (d *delivery) start() {
	if d.fd == noDescriptor {
		go d.run()
	} else {
		theWorkers.add(d)
	}
}

// run delivers messages until the connection has ended, no function is set, or the connection is parked.
func (d *delivery) run() {
	var m Message
	var lent *buffer
	var pace pace
	for {
		var err error
		lent, err = d.r.nextFor(lent, &m)
		switch {
		case err == errDelivered || err == errParked:
			return
		case !d.call(m, err):
			return
		case pace.isOver():
			runtime.Gosched()
		}
	}
}

// A pace measures how long a connection has kept its goroutine running.
type pace struct {
	messages int
	since    time.Duration
}

const (
	paceMessages = 64               // messages delivered before other goroutines get a turn
	paceTime     = time.Millisecond // the same as a time, checked every paceStep messages
	paceStep     = 8
)

// isOver counts a delivered message, and reports whether it is time to let other goroutines run. This keeps a flood on
// one connection from holding up the others.
func (p *pace) isOver() bool {
	p.messages++
	if p.messages%paceStep != 0 {
		return false
	}
	at := now()
	if p.messages < paceMessages && at-p.since < paceTime {
		return false
	}
	*p = pace{since: at}
	return true
}

// visit is called by each sweep of the poller. It makes run park the connection if no message has come since the last
// visit. A connection is not parked at once, because waiting in a read costs less than an event.
func (d *delivery) visit() {
	d.mu.Lock()
	waiting := d.state == deliveryWaiting
	park := waiting && d.quiet
	d.quiet = waiting
	if park {
		d.parking.Store(true)
	}
	d.mu.Unlock()
	if park {
		d.r.interrupt()
	}
}

// park makes the poller wait for bytes, unless no function is set. run then ends. The caller holds the reader's turn,
// because the poller would not see bytes that another read buffers. If the connection stays silent, the poller wakes it
// at due, a time of now(). The event is armed after the state has changed, so that it finds the connection parked. If
// that fails, or the verdict came too early to wake the connection, park wakes it.
func (d *delivery) park(due time.Duration) {
	queue, parked := d.enterParked(due)
	if parked && (queue == nil || d.arm(queue) != nil || d.r.c.end.failure() != nil) {
		polling.leave(d, d.fd) // it is not visited again
		d.wake(false)
	}
}

// enterParked changes the state for park. queue is nil if the poller does not know d.
func (d *delivery) enterParked(due time.Duration) (queue *readiness, parked bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parking.Store(false)
	d.quiet = false
	if !d.on.Load() {
		d.state = deliveryIdle
		return nil, false
	}
	if d.since == 0 {
		d.since = now()
	}
	d.state = deliveryParked
	return polling.setDue(d, d.fd, due), true
}

// arm arms the event of the descriptor.
func (d *delivery) arm(queue *readiness) (err error) {
	closed := descriptor(d.r.c).Control(func(fd uintptr) { err = queue.arm(int(fd)) })
	return cmp.Or(closed, err)
}

// wake restarts run if the connection is parked. silent means that no bytes have arrived. A connection that was silent
// for long is parked again as soon as it has no more bytes and has sent any ping that is due. Otherwise a goroutine
// waits for its messages until the next silence.
func (d *delivery) wake(silent bool) {
	if d.unpark(silent) {
		d.start()
	}
}

// unpark changes the state for wake, and reports whether the connection was parked.
func (d *delivery) unpark(silent bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != deliveryParked {
		return false
	}
	d.state = deliveryWaiting
	d.parking.Store(silent || now()-d.since >= sweepEvery)
	if !silent {
		d.since = 0
	}
	polling.setDue(d, d.fd, notParked)
	return true
}

// ended is called when the connection has a verdict. It wakes a parked connection, which delivers the verdict.
func (d *delivery) ended() {
	d.mu.Lock()
	fd := d.fd
	d.mu.Unlock()
	polling.leave(d, fd)
	d.wake(true)
}

// call calls the function and reports whether there is more to deliver. If the function does not return, call ends the
// connection. After a panic this goroutine continues; after runtime.Goexit, which cannot be stopped, another one does.
func (d *delivery) call(m Message, err error) (more bool) {
	f, over, returned := d.begin(err), err != nil, false
	defer func() {
		v := recover()
		if !returned {
			over = true
			d.failed(v)
		}
		more = d.finish(over)
		if more && !returned && v == nil {
			d.start() // because runtime.Goexit ends this goroutine
		}
	}()
	if f != nil {
		f(m, err)
	}
	returned = true
	return
}

// begin returns the function to call. A message that was read is delivered even if the function was removed meanwhile.
// An error is not: another read returns it.
func (d *delivery) begin(err error) func(Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = deliveryCalling
	d.since, d.renewed, d.quiet = 0, false, false
	if err != nil && !d.on.Load() {
		return nil
	}
	return d.f
}

// finish records that the function has returned, and reports whether there is more to deliver. over means that the
// function got the error or did not return. A function that was set during that call gets the error too.
func (d *delivery) finish(over bool) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more = !over || d.renewed && d.on.Load()
	d.state = deliveryIdle
	if more {
		d.state = deliveryWaiting
	}
	return more
}

// failed ends the connection after a panic v or, if v is nil, after runtime.Goexit.
func (d *delivery) failed(v any) {
	c := d.r.c
	if v != nil {
		logPanic(c.agreed.errorLog, c.RemoteAddr(), v)
	}
	c.end.fail(&ProtocolError{StatusInternalError, "the function of OnMessage did not return"})
}

// logPanic logs a panic as net/http does. A nil logger means the standard one.
func logPanic(logger *log.Logger, peer net.Addr, v any) {
	if logger == nil {
		logger = log.Default()
	}
	buf := make([]byte, 64<<10)
	buf = buf[:runtime.Stack(buf, false)]
	logger.Printf("http: panic serving %v: %v\n%s", peer, v, buf)
}

// nextFor is next for delivery.run. If the poller takes over the wait, it returns errParked.
func (r *reader) nextFor(lent *buffer, m *Message) (*buffer, error) {
	if err := r.lockFor(); err != nil {
		*m = Message{}
		return nil, err
	}
	r.delivering = true
	lent, err := r.exchange(context.Background(), lent, m)
	r.delivering = false
	if err == errParked {
		r.deliver.Load().park(r.live.park())
	}
	r.unlock()
	return lent, err
}

// lockFor takes the turn for delivery.run. It first waits for the end of other reads, which began while the function
// ran or before it was set. It leaves the turn alone after the verdict, so that it does not disturb a read that drains
// the connection.
func (r *reader) lockFor() error {
	for {
		if err := r.c.end.failure(); err != nil {
			return err
		}
		if !r.turn.tryLock() {
			r.interrupt()
			if !r.turn.lock(context.Background(), r.c.end.failing()) {
				return r.c.end.failure()
			}
		}
		if !r.turn.isContended() {
			return nil
		}
		r.unlock()
		runtime.Gosched()
	}
}

// parks reports whether a read should park the connection instead of waiting. Only a read of run does.
func (r *reader) parks() bool { return r.delivering && r.deliver.Load().parking.Load() }

// refuses returns why CloseRead or the Read of a Stream cannot begin, or nil.
func (r *reader) refuses(ctx context.Context) error {
	switch {
	case ctx == nil:
		return errNilContext
	case r.c.end.failure() == nil && r.delivers():
		return errDelivered
	}
	return nil
}

// delivers reports whether OnMessage is set.
func (r *reader) delivers() bool { return r.deliver.Load().isSet() }

// ended tells the function of OnMessage that the connection has a verdict.
func (r *reader) ended() {
	if d := r.deliver.Load(); d != nil {
		d.ended()
	}
}
