package websocket

import (
	"context"
	"errors"
	"log"
	"net"
	"runtime"
	"sync"
)

// OnMessage registers f to be called with each message that arrives from now on, and returns at once. The calls are
// made one at a time and in order, on a goroutine of the package. f may block. The Data of a message is valid until f
// returns.
//
// In the last call the error is the one that every later read returns, and the Message is zero. In all other calls the
// error is nil. If the connection has already ended, f is called once, with its error. Another call of OnMessage
// replaces f from the next message on. OnMessage(nil) ends the delivery without losing a message: once a running call
// of f has returned, the other ways to read work again.
//
// While f is set, pings are answered and the peer's close frame is noticed. The other ways to read return an error,
// even if they were already waiting, with one exception: while f is running, Read, Reader and ReadJSON return the next
// messages. f may call any other method except Ping, whose answer would be read by the goroutine that is running f.
//
// A serve function of Handler or Serve may call OnMessage and return. The connection then stays open. The same holds
// for a handler that called Upgrade over HTTP/1.1. If f panics, the connection is closed with StatusInternalError, the
// panic is logged (see Options.ErrorLog), and f is not called again.
func (c *Conn) OnMessage(f func(m Message, err error)) {
	c.in.onMessage(f)
}

func (r *reader) onMessage(f func(Message, error)) {
	if r.deliver.Load() == nil {
		if f == nil {
			return
		}
		r.deliver.CompareAndSwap(nil, &delivery{r: r})
	}
	r.deliver.Load().set(f)
}

// errDelivered is the error of a read while OnMessage is set.
var errDelivered = errors.New("websocket: OnMessage receives the messages of this connection")

// A delivery calls the function of OnMessage. Any goroutine may call set, isSet and excludes, on a nil delivery too;
// the other methods belong to the goroutine of run.
type delivery struct {
	r *reader

	mu      sync.Mutex           // guards all below; a leaf
	f       func(Message, error) // nil: none is set
	current func(Message, error) // the last f that run has seen
	renewed bool                 // set was called since
	running bool                 // there is a goroutine of run
	calling bool                 // f runs: reads by others may take the messages that follow
	over    bool                 // f got the error, or has panicked
}

// set replaces the function and starts run, if it does not run yet.
func (d *delivery) set(f func(Message, error)) {
	d.mu.Lock()
	start := f != nil && !d.running
	d.f, d.renewed = f, true
	d.running = d.running || start
	d.mu.Unlock()
	if start {
		go d.run()
	}
	d.r.interrupt() // a read that waits looks at stopped
}

// isSet reports whether a function is set.
func (d *delivery) isSet() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.f != nil
}

// excludes reports whether a read has to end because OnMessage is set.
func (d *delivery) excludes() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.f != nil && !d.calling
}

// proceed reports whether a function is set. If there is none, run has to end.
func (d *delivery) proceed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current, d.running = d.f, d.f != nil
	return d.running
}

// run delivers messages until the connection has ended or no function is set.
func (d *delivery) run() {
	var m Message
	var lent *buffer
	for more := true; more; {
		var err error
		if lent, err = d.r.nextFor(lent, &m); err == errDelivered {
			return
		}
		more = d.call(m, err)
	}
}

// call calls the function and reports whether there is more to deliver.
func (d *delivery) call(m Message, err error) (more bool) {
	f := d.begin(err)
	returned := f == nil
	defer func() {
		if v := recover(); !returned {
			d.failed(v)
		}
		more = d.finish()
	}()
	if f != nil {
		f(m, err)
		returned = true
	}
	return
}

// begin returns the function to call. A message that was read is delivered even if no function is set any more.
func (d *delivery) begin(err error) func(Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calling, d.renewed, d.over = true, false, err != nil
	if d.f == nil && err == nil {
		return d.current
	}
	return d.f
}

// finish notes that the function has returned. After the last call, a function that was set meanwhile gets the error
// too.
func (d *delivery) finish() (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calling = false
	d.running = !d.over || d.renewed && d.f != nil
	return d.running
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

// nextFor is next for delivery.run. Reads that others began while the function ran, or before it was set, end first.
func (r *reader) nextFor(lent *buffer, m *Message) (*buffer, error) {
	ctx := context.Background()
	for tries := 0; tries == 0 || r.turn.isContended(); tries++ {
		if tries > 0 {
			r.turn.unlock()
			runtime.Gosched()
		}
		if !r.turn.tryLock() {
			r.interrupt()
			if !r.turn.lock(ctx, r.c.end.failing()) {
				return nil, r.c.end.failure()
			}
		}
	}
	r.takeBack(lent)
	r.delivering = true
	err := r.begin(ctx)
	if err == nil && r.atRest() {
		_, err = r.fill(ctx, nil)
	}
	if err == nil {
		lent, err = r.lend(ctx, m)
	}
	r.delivering = false
	r.turn.unlock()
	return lent, err
}

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
