package websocket

import (
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

	// Only nextFor returns these errors.
	errParked   = errors.New("websocket: the poller waits for the next message")
	errUnparked = errors.New("websocket: the poller cannot wait for the next message")
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

// A delivery calls the function of OnMessage. Any goroutine may call set, isSet, excludes, visit, wasWoken, wake and
// ended; isSet, excludes and wasWoken work on a nil delivery too. The other methods belong to the goroutine of run,
// which takes mu only twice for each message, in begin and finish.
type delivery struct {
	r       *reader
	on      atomic.Bool // a function is set; changes while mu is held
	parking atomic.Bool // run should park instead of waiting; changes while mu is held

	mu      sync.Mutex           // guards all below; taken after the mutex of ending, and before that of poller
	f       func(Message, error) // the last function set
	since   time.Duration        // when the silence of a parked connection began, by now()
	fd      int                  // enrolled in the poller, or noDescriptor
	state   deliveryState
	known   bool // the first call of set has looked for a descriptor
	renewed bool // set was called since the last call of the function began
	over    bool // f was called with the error, or panicked
	quiet   bool // no message has come since the last visit
	pinging bool // run was woken to send a ping, which does not end the silence
	woken   bool // set or visit interrupted a wait, which is not a failure of the connection

	// The goroutine of run owns these while the connection is not parked.
	event bool // the poller has reported bytes, which run reads before it parks again
	once  bool // the read takes what has arrived, without waiting
}

// set replaces the function and starts run, if it is not running yet.
func (d *delivery) set(f func(Message, error)) {
	d.mu.Lock()
	if !d.known {
		d.enroll()
	}
	start := f != nil && d.state == deliveryIdle
	switch {
	case start:
		d.state = deliveryWaiting
		d.parking.Store(d.fd != noDescriptor) // the poller says whether bytes have arrived
	case f == nil && d.state == deliveryParked:
		d.state = deliveryIdle
		polling.unpark(d, d.fd)
	}
	if f != nil {
		d.f = f
	}
	d.on.Store(f != nil)
	d.renewed, d.woken = true, true
	d.mu.Unlock()
	if start {
		d.start()
	}
	if d.r.c.end.failure() != nil {
		d.ended() // which may have been called before enroll
	} else {
		d.r.interrupt() // a read that waits looks at stopped
	}
}

// enroll registers the connection with the poller, if the poller can wait for it. mu is held.
func (d *delivery) enroll() {
	d.known = true
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

// excludes reports whether a read has to end because OnMessage is set.
func (d *delivery) excludes() bool {
	if !d.isSet() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on.Load() && d.state != deliveryCalling
}

// proceed reports whether a function is set. If not, run must end.
func (d *delivery) proceed() bool {
	if d.on.Load() {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on.Load() {
		d.state = deliveryIdle
	}
	return d.on.Load()
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
		if lent, err = d.r.nextFor(lent, &m); err != nil {
			m = Message{} // its Data was in a buffer that was taken back
		}
		switch {
		case err == errDelivered || err == errParked:
			return
		case err == errUnparked:
		case d.call(m, err):
			if pace.isOver() {
				runtime.Gosched()
			}
		default:
			return
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

// visit is called by each sweep of the poller. It makes run park the connection if that has been silent since the last
// visit.
func (d *delivery) visit() {
	d.mu.Lock()
	waiting := d.state == deliveryWaiting
	park := waiting && d.quiet
	d.quiet = waiting
	if park {
		d.parking.Store(true)
		d.woken = true
	}
	d.mu.Unlock()
	if park {
		d.r.interrupt()
	}
}

// wasWoken reports whether a wait was interrupted since the last call.
func (d *delivery) wasWoken() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	woken := d.woken
	d.woken = false
	return woken
}

// park makes the poller wait for bytes. If park returns errUnparked, run continues; after any other error, run ends.
// The caller holds the reader's turn, because the poller would not see bytes that another read buffers. If the
// connection stays silent, the poller wakes it at due, a time of now().
func (d *delivery) park(due time.Duration) error {
	d.mu.Lock()
	d.parking.Store(false)
	d.quiet = false
	if !d.on.Load() {
		d.state = deliveryIdle
		d.mu.Unlock()
		return errDelivered
	}
	if !d.pinging {
		d.since = now()
	}
	d.state, d.pinging = deliveryParked, false
	queue := polling.park(d, d.fd, due)
	d.mu.Unlock()
	if queue != nil && d.arm(queue) == nil && d.r.c.end.failure() == nil {
		return errParked
	}
	polling.leave(d, d.fd) // it is not visited again
	if d.unpark(false) {
		return errUnparked
	}
	return errParked
}

// arm arms the event of the descriptor.
func (d *delivery) arm(queue *readiness) error {
	var err error
	closed := descriptor(d.r.c).Control(func(fd uintptr) { err = queue.arm(int(fd)) })
	return errors.Join(closed, err)
}

// unpark changes a parked connection to a waiting one, and the caller must then start run. If the connection is not
// parked, unpark returns false. A connection that was silent for long is parked again as soon as it has no more bytes
// and has sent any ping that is due. Otherwise a goroutine waits for its messages until the next silence.
func (d *delivery) unpark(silent bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != deliveryParked {
		return false
	}
	d.state = deliveryWaiting
	d.parking.Store(silent || now()-d.since >= sweepEvery)
	d.event, d.pinging = !silent, silent
	polling.unpark(d, d.fd)
	return true
}

// wake restarts run for a parked connection. silent means that no bytes have arrived.
func (d *delivery) wake(silent bool) {
	if d.unpark(silent) {
		d.start()
	}
}

// ended is called when the connection has a verdict. It wakes a parked connection, which delivers the verdict.
func (d *delivery) ended() {
	d.mu.Lock()
	fd := d.fd
	d.mu.Unlock()
	polling.leave(d, fd)
	d.wake(true)
}

// call calls the function and reports whether there is more to deliver.
func (d *delivery) call(m Message, err error) (more bool) {
	f := d.begin(err)
	returned := f == nil
	defer func() {
		v := recover()
		if !returned {
			d.failed(v)
		}
		more = d.finish()
		if more && !returned && v == nil {
			d.start() // because runtime.Goexit ends this goroutine
		}
	}()
	if f != nil {
		f(m, err)
		returned = true
	}
	return
}

// begin returns the function to call. A message that was read is delivered even if the function is no longer set.
func (d *delivery) begin(err error) func(Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = deliveryCalling
	d.renewed, d.quiet, d.pinging, d.over = false, false, false, err != nil
	if err != nil && !d.on.Load() {
		return nil
	}
	return d.f
}

// finish records that the function has returned, and reports whether there is more to deliver. A function that was set
// during the last call gets the error too.
func (d *delivery) finish() (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more = !d.over || d.renewed && d.on.Load()
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
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
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

// nextFor is next for delivery.run. It first waits for other reads to end: those that began while the function ran, or
// before it was set.
func (r *reader) nextFor(lent *buffer, m *Message) (*buffer, error) {
	*m = Message{} // an error comes with no message
	ctx, d := context.Background(), r.deliver.Load()
	for tries := 0; tries == 0 || r.turn.isContended(); tries++ {
		if tries > 0 {
			r.turn.unlock()
			runtime.Gosched()
		}
		if err := r.c.end.failure(); err != nil {
			return nil, err // does not disturb a read that drains the connection
		}
		if !r.turn.tryLock() {
			r.interrupt()
			if !r.turn.lock(ctx, r.c.end.failing()) {
				return nil, r.c.end.failure()
			}
		}
	}
	r.takeBack(lent)
	parks, event := d.parking.Load(), d.event
	r.delivering, d.event, d.once = true, false, parks && event && r.c.sock != nil
	err := r.begin(ctx)
	switch {
	case err != nil || !r.atRest():
	case parks && !event:
		err = r.fillLast(ctx)
	default:
		_, err = r.fill(ctx, nil)
	}
	if err == nil {
		lent, err = r.lend(ctx, m)
	}
	r.delivering, d.once = false, false
	if err == errParked {
		err = d.park(r.live.park())
	}
	r.turn.unlock()
	if err != nil {
		lent = nil // it was taken back, and nothing was lent
	}
	return lent, err
}

// fillLast is fill for a connection that is about to be parked. Only TLS may hold bytes that the poller does not see. A
// TLS connection is therefore read once more, without waiting.
func (r *reader) fillLast(ctx context.Context) error {
	if r.c.sock == nil {
		r.interrupt()
		_, err := r.fill(ctx, nil)
		return err
	}
	r.beforeFill()
	r.live.start()
	return r.wouldWait(ctx)
}

// tries reports whether a read must not wait, because the connection will be parked instead.
func (r *reader) tries() bool { return r.delivering && r.deliver.Load().once }

// wouldWait ends a read at the point where it would wait.
func (r *reader) wouldWait(ctx context.Context) error {
	r.live.pause()
	return r.rearm(ctx)
}

// parks reports whether the connection should be parked instead of waiting.
func (r *reader) parks() bool { return r.delivering && r.deliver.Load().parking.Load() }

// refuses returns why CloseRead cannot begin, or nil.
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
