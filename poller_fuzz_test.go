//go:build (linux || darwin || dragonfly || freebsd || netbsd || openbsd) && !nosyscall

package websocket

import (
	"context"
	"io"
	"log"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A deliveryModel is a connection with OnMessage, and what has to come of it: every message is delivered once and in order,
// to a function that was set when it was sent or later, and the last function gets one error. The fuzzer takes its steps
// while the goroutines of the package run.
type deliveryModel struct {
	t    *testing.T
	c    *Conn
	peer *net.UnixConn
	wire []byte // frames that the peer has yet to write
	over bool   // a step has ended the connection

	mu      sync.Mutex // guards all below
	set     int        // the number of the last call of OnMessage
	isSet   bool       // that call set a function
	running int        // functions
	got     []int      // messages, in the order of delivery
	oldest  []int      // for each message sent, the oldest function that may get it
	errors  map[int]int
	reads   bool   // functions read another message now and then
	leave   func() // called by the next function that gets a message, and does not return
	left    int    // the function that did so
	last    int    // the function that OnMessage(nil) ended last; it may get the message that is being read
}

// deliverySteps are chosen by the lower half of a byte, and the upper half is their argument.
var deliverySteps = [16]func(m *deliveryModel, arg int){
	func(m *deliveryModel, arg int) { m.send(1 + arg) },
	func(m *deliveryModel, arg int) { m.write(len(m.wire)) },
	func(m *deliveryModel, arg int) { m.write(1 + arg) },
	func(m *deliveryModel, arg int) { m.onMessage() },
	func(m *deliveryModel, arg int) { m.end() },
	func(m *deliveryModel, arg int) { m.read() },
	func(m *deliveryModel, arg int) { m.event() },
	func(m *deliveryModel, arg int) { m.sweep() },
	func(m *deliveryModel, arg int) { m.sweep(); m.sweep() },
	func(m *deliveryModel, arg int) { m.settle() },
	func(m *deliveryModel, arg int) { m.sweep(); m.sweep(); m.settle() },
	func(m *deliveryModel, arg int) { m.age() },
	func(m *deliveryModel, arg int) { m.mu.Lock(); m.reads = arg%2 == 0; m.mu.Unlock() },
	func(m *deliveryModel, arg int) { m.c.Stats() },
	func(m *deliveryModel, arg int) { m.send(1); m.write(len(m.wire)); m.settle() },
	(*deliveryModel).finish,
}

// finish ends the connection.
func (m *deliveryModel) finish(arg int) {
	m.over = m.over || arg <= 8
	switch arg {
	case 0:
		go m.c.Close(StatusNormalClosure, "")
	case 1:
		m.c.CloseNow()
	case 2:
		m.peer.Close()
	case 3:
		m.peer.CloseWrite()
	case 4:
		m.wire = append(m.wire, towards(true, closeHex(1001, ""))...)
		m.write(len(m.wire))
	case 5:
		m.c.end.expel()
	case 6:
		m.c.NetConn().Close() // nothing tells
	case 7:
		m.setLeave(func() { panic("left") })
	case 8:
		m.setLeave(runtime.Goexit)
	}
}

func (m *deliveryModel) setLeave(leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave = leave
}

// send has the peer make messages, each of which is its number.
func (m *deliveryModel) send(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		m.wire = append(m.wire, towards(true, frameHex(0x81, []byte(strconv.Itoa(len(m.oldest)))))...)
		m.oldest = append(m.oldest, -1)
	}
}

// write writes up to n bytes of the peer's frames.
func (m *deliveryModel) write(n int) {
	m.mu.Lock()
	for i := len(m.oldest) - 1; i >= 0 && m.oldest[i] < 0; i-- {
		m.oldest[i] = m.set
	}
	m.mu.Unlock()
	n = min(n, len(m.wire))
	m.peer.Write(m.wire[:n])
	m.wire = m.wire[n:]
}

func (m *deliveryModel) onMessage() int {
	defer m.mu.Unlock()
	number := m.set + 1
	m.c.OnMessage(func(msg Message, err error) { m.call(number, msg, err) })
	m.mu.Lock() // what is sent from here on is for the new function
	m.set, m.isSet = number, true
	return number
}

func (m *deliveryModel) end() {
	m.c.OnMessage(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isSet {
		m.set, m.isSet, m.last = m.set+1, false, m.set
	}
}

// call is the function of OnMessage with a number.
func (m *deliveryModel) call(number int, msg Message, err error) {
	m.begin()
	defer m.ended()
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.errors[number]++
		return
	}
	reads, leave := m.note(msg.Data, number)
	if reads {
		if _, p, err := m.c.Read(context.Background()); err == nil {
			m.note(p, math.MaxInt)
		}
	}
	if leave != nil {
		leave()
	}
}

func (m *deliveryModel) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running++; m.running > 1 {
		m.t.Error("two calls at once")
	}
}

func (m *deliveryModel) ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
}

// note judges a message that the function with the given number got. It returns what that is to do.
func (m *deliveryModel) note(p []byte, number int) (reads bool, leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := strconv.Atoi(string(p))
	switch {
	case err != nil || n != len(m.got):
		m.t.Errorf("message %q after %d others", p, len(m.got))
	case number == m.last && m.oldest[n] == number+1:
		m.last = 0
	case number < m.oldest[n]:
		m.t.Errorf("function %d got message %d, which was sent after %d was set", number, n, m.oldest[n])
	}
	m.got = append(m.got, n)
	if number != math.MaxInt && m.leave != nil {
		leave, m.leave, m.left = m.leave, nil, number
	}
	return m.reads && n%2 == 0, leave
}

// read reads for a millisecond, if no function is set.
func (m *deliveryModel) read() {
	m.settle()
	if m.isSet || m.state() != deliveryIdle {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, p, err := m.c.Read(ctx); err == nil {
		m.note(p, math.MaxInt)
	}
}

// event has the poller report bytes, whether there are any or not.
func (m *deliveryModel) event() {
	if d := m.c.in.deliver.Load(); d != nil {
		polling.report([]int{max(d.fd, 0)})
	}
}

func (m *deliveryModel) sweep() { polling.sweep() }

// age makes the silence of a parked connection long, and the connection due.
func (m *deliveryModel) age() {
	if d := m.c.in.deliver.Load(); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.since -= time.Hour
		if d.state == deliveryParked {
			polling.setDue(d, d.fd, 1)
		}
	}
}

func (m *deliveryModel) state() deliveryState {
	d := m.c.in.deliver.Load()
	if d == nil {
		return deliveryIdle
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// settle lets the goroutines of the package run, until the connection holds none perhaps.
func (m *deliveryModel) settle() {
	for range 200 {
		if s := m.state(); s == deliveryIdle || s == deliveryParked {
			return
		}
		runtime.Gosched()
	}
}

// check ends the connection, unless a step has, and judges what has come of it.
func (m *deliveryModel) check() {
	last := m.onMessage()
	if !m.over {
		m.send(1)
		m.write(len(m.wire))
		until(m.t, "all messages were delivered", func() bool { return m.count(func() int { return len(m.oldest) - len(m.got) }) == 0 })
	}
	m.c.CloseNow()
	d := m.c.in.deliver.Load()
	until(m.t, "the last call has returned", func() bool {
		return m.state() == deliveryIdle && m.count(func() int { return m.running }) == 0
	})
	m.event()
	m.sweep()
	m.settle()
	m.mu.Lock()
	defer m.mu.Unlock()
	for number := range last + 1 {
		switch n := m.errors[number]; {
		case n > 1, n > 0 && number == m.left, n == 0 && number == last && last != m.left:
			m.t.Errorf("function %d of %d got %d errors", number, last, n)
		}
	}
	polling.mu.Lock()
	defer polling.mu.Unlock()
	if polling.holds(d, d.fd) {
		m.t.Error("the poller holds a connection that has ended")
	}
}

func (m *deliveryModel) count(f func() int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f()
}

// socketPair returns the two ends of a unix connection without a name.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		nc, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = nc.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// FuzzDelivery takes steps at random: bytes and events that come, sweeps, calls of OnMessage, reads, and ends.
func FuzzDelivery(f *testing.F) {
	for _, steps := range []string{
		"\x03\x0a\x0e\x0a\x30\x01\x09\x0a",             // parked, woken by one message, then by several
		"\x03\x0a\x10\x02\x0a\x02\x0a\x12\x09\x0a",     // messages in pieces
		"\x03\x0a\x06\x06\x07\x0b\x06\x0b\x07\x0e",     // events and sweeps without a reason
		"\x03\x0a\x04\x0e\x05\x03\x0e\x04\x30\x01\x05", // ended, read by others, set again
		"\x03\x03\x0a\x03\x0e\x04\x03\x04\x03\x0e\x08", // set again and again
		"\x03\x0c\x0a\x70\x01\x09\x08\x03\x0e",         // reads inside the function
		"\x03\x0a\x0d\x0e\x0d\x08\x0d\x0e",             // Stats takes the turn
		"\x03\x0a\x0f", "\x03\x0a\x1f", "\x03\x0a\x2f\x03", "\x03\x0a\x3f", "\x03\x0a\x4f", "\x03\x0a\x5f", "\x03\x0a\x6f\x03",
		"\x03\x0a\x7f\x0e\x03\x03", "\x03\x0a\x8f\x0e\x03", // what ends a parked connection
		"\x03\x20\x01\x0f", "\x03\x20\x01\x1f\x03", "\x03\x20\x01\x2f\x04", "\x03\x20\x01\x3f", "\x03\x20\x4f\x03", "\x03\x7f\x20\x01\x03",
		"\x1f\x03", "\x03\x04\x2f\x03\x04",
	} {
		f.Add([]byte(steps))
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		a, b := socketPair(t)
		defer b.Close()
		c := newConn(a, testConfig(true, func(cfg *config) { cfg.keepAlive = time.Hour; cfg.errorLog = log.New(io.Discard, "", 0) }))
		m := &deliveryModel{t: t, c: c, peer: b, errors: make(map[int]int)}
		b.SetDeadline(time.Now().Add(10 * time.Second))
		for _, step := range steps[:min(len(steps), 100)] {
			deliverySteps[step%16](m, int(step/16))
		}
		m.check()
		until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() < 100 })
	})
}
