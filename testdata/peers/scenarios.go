package main

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// A scenario measures its cells. Names are those of -scenario.
type scenario struct {
	name string
	run  func(b *bench) error
}

var scenarios = []scenario{
	{"echo", (*bench).echo},
	{"pipeline", (*bench).pipeline},
	{"ingest", (*bench).ingest},
	{"fragments", (*bench).fragments},
	{"text", (*bench).text},
	{"writers", (*bench).writers},
	{"broadcast", (*bench).broadcast},
	{"compression", (*bench).compression},
	{"client", (*bench).client},
	{"idle", (*bench).idleConnections},
	{"handshake", (*bench).handshakes},
	{"memory", (*bench).memory},
	{"events", (*bench).eventEcho},
	{"busy", (*bench).eventBusy},
	{"chatter", (*bench).eventChatter},
	{"sleep", (*bench).eventSleep},
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func bufferFor(size int) int { return min(max(4096, size+16), 256<<10) }

// echo has one message in flight on each connection.
func (b *bench) echo() error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	for _, k := range []struct{ conns, size int }{
		{1, 16}, {1, 1024}, {64, 16}, {64, 128}, {64, 1024}, {1000, 16}, {1000, 1024}, {16, 16 << 10}, {16, 128 << 10}, {4, 1 << 20},
	} {
		if err := b.echoes("echo", cs, k.conns, k.size, 1); err != nil {
			return err
		}
	}
	return nil
}

// pipeline has many messages in flight on each connection.
func (b *bench) pipeline() error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	if err := b.echoes("pipeline", cs, 64, 32, 128); err != nil {
		return err
	}
	return b.echoes("pipeline", cs, 64, 512, 16)
}

func (b *bench) echoes(scenario string, cs []*child, conns, size, inFlight int) error {
	payload := pattern(size)
	frames := bytes.Repeat(appendFrame(nil, finBit|opBinary, true, payload), inFlight)
	x := exchange{out: frames, replies: inFlight, messages: int64(inFlight), timed: inFlight == 1 && conns <= 64}
	subjects, err := each(cs, func(c *child) (*subject, error) {
		return exchanges(c, "echo", options{}, conns, bufferFor(size), x, func(f fleet) error {
			return f.check(frames, inFlight, payload)
		})
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d connections, %s", conns, sizeName(size))
	if inFlight > 1 {
		name += fmt.Sprintf(", %d in flight", inFlight)
	}
	return b.cell(scenario, name, "message", subjects)
}

// ingest sends messages one way.
func (b *bench) ingest() error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	for _, size := range []int{64, 1 << 10, 16 << 10, 64 << 10} {
		if err := b.oneWay("ingest", sizeName(size), cs, options{}, pattern(size), 1); err != nil {
			return err
		}
	}
	return nil
}

// fragments sends messages one way, in pieces.
func (b *bench) fragments() error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	for _, k := range []struct{ size, n int }{{1 << 10, 4}, {64 << 10, 4}, {64 << 10, 64}} {
		name := fmt.Sprintf("%s in %d fragments", sizeName(k.size), k.n)
		if err := b.oneWay("fragments", name, cs, options{}, pattern(k.size), k.n); err != nil {
			return err
		}
	}
	return nil
}

// text sends messages one way, which are checked to be UTF-8.
func (b *bench) text() error {
	cs, end, err := b.spawnAll(func(l library) bool { return l.utf8 })
	if err != nil {
		return err
	}
	defer end()
	for _, size := range []int{1 << 10, 64 << 10} {
		for _, kind := range []string{"ASCII", "Chinese", "emoji"} {
			name := fmt.Sprintf("%s %s", sizeName(size), kind)
			if err := b.oneWay("text", name, cs, options{UTF8: true}, textOf(kind, size), 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneWay sends about 512 KiB of frames and then asks whether they were read. An echo server proves that they were read
// correctly.
func (b *bench) oneWay(scenario, name string, cs []*child, o options, payload []byte, fragments int) error {
	op := byte(opBinary)
	if o.UTF8 {
		op = opText
	}
	message := appendFragments(nil, op, payload, fragments)
	n := min(1024, max(1, 512<<10/len(message)))
	ask := appendFrame(nil, finBit|opBinary, true, []byte{1})
	x := exchange{out: append(bytes.Repeat(message, n), ask...), replies: 1, messages: int64(n)}
	subjects, err := each(cs, func(c *child) (*subject, error) {
		if err := checkEcho(c, o, message, payload); err != nil {
			return nil, err
		}
		return exchanges(c, "sink", o, 8, 4096, x, func(f fleet) error { return f.check(x.out, 1, []byte{1}) })
	})
	if err != nil {
		return err
	}
	return b.cell(scenario, name, "message", subjects)
}

func checkEcho(c *child, o options, message, payload []byte) error {
	addr, err := c.listen("echo", o)
	if err != nil {
		return err
	}
	f, err := dialFleet(addr, o, 1, 4096)
	if err != nil {
		return err
	}
	defer f.drop()
	return f.check(message, 1, payload)
}

// writers has goroutines of the server share one connection.
func (b *bench) writers() error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	for _, n := range []int{8, 64} {
		subjects, err := each(cs, func(c *child) (*subject, error) {
			return pusher(c, options{}, request{Op: "writers", Goroutines: n, Size: 64})
		})
		if err != nil {
			return err
		}
		if err := b.cell("writers", fmt.Sprintf("%d goroutines, 64 B", n), "message", subjects); err != nil {
			return err
		}
	}
	return nil
}

// pusher is the subject of a server that sends unprompted to one connection, which drains it.
func pusher(c *child, o options, q request) (*subject, error) {
	addr, err := c.listen("hub", o)
	if err != nil {
		return nil, err
	}
	raw, err := dialRaw(addr, o, 256<<10)
	if err != nil {
		return nil, err
	}
	q.Addr = addr
	d := startDrain(raw)
	sent := int64(0)
	run := func(t time.Duration) (int64, []time.Duration, error) {
		q.Duration = t
		r, err := c.call(q)
		if err != nil {
			return 0, nil, err
		}
		sent += r.Count
		return r.Count, nil, d.settle(sent)
	}
	s := &subject{name: label(c.lib.name, o), slice: outside(c, run), close: raw.drop}
	s.wire = func() float64 { return float64(d.bytes.Load()) / float64(d.messages.Load()) / float64(q.Size) }
	return s, nil
}

// broadcast sends bursts of messages to 1,000 connections, each burst when all have received the one before.
func (b *bench) broadcast() error {
	for _, k := range []broadcasts{
		{size: 128, burst: 1}, {size: 128, burst: 8}, {size: 128, burst: 64}, {size: 4 << 10, burst: 1},
		{size: 128, burst: 1, compress: true}, {size: 128, burst: 8, compress: true}, {size: 4 << 10, burst: 1, compress: true},
	} {
		cs, end, err := b.spawnAll(func(l library) bool { return l.compress || !k.compress })
		if err != nil {
			return err
		}
		subjects, err := each(cs, func(c *child) (*subject, error) { return subscribed(c, k) })
		if err == nil {
			err = b.cell("broadcast", k.String(), "delivery", subjects)
		}
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// broadcasts are those of one cell.
type broadcasts struct {
	size, burst int
	compress    bool
}

const subscribers = 1000

func (k broadcasts) String() string {
	name := fmt.Sprintf("%d subscribers, %s", subscribers, sizeName(k.size))
	if k.burst > 1 {
		name += fmt.Sprintf(", bursts of %d", k.burst)
	}
	if k.compress {
		name += ", compressed"
	}
	return name
}

// subscribed is the subject of a server that broadcasts. A trip is the time from the request for a burst until the last
// subscriber has all of it.
func subscribed(c *child, k broadcasts) (*subject, error) {
	o := options{Hub: true, Compress: k.compress}
	addr, err := c.listen("hub", o)
	if err != nil {
		return nil, err
	}
	f, err := dialFleet(addr, o, subscribers, bufferFor(k.size))
	if err != nil {
		return nil, err
	}
	q := request{Op: "broadcast", Addr: addr, Conns: subscribers, Size: k.size, Burst: k.burst}
	round := func(read func(*rawConn) error) error {
		errs := make(chan error, 1)
		var once sync.Once
		var wg sync.WaitGroup
		for _, rc := range f {
			wg.Go(func() {
				_ = rc.SetDeadline(time.Now().Add(20 * time.Second))
				for range k.burst {
					if err := read(rc); err != nil {
						once.Do(func() { errs <- err })
						return
					}
				}
			})
		}
		if _, err := c.call(q); err != nil {
			return err
		}
		wg.Wait()
		close(errs)
		return <-errs
	}
	want := corpus(k.size)[0]
	check := func(rc *rawConn) error { return checkReply(rc, &inflater{}, want) }
	if err := round(check); err != nil {
		f.drop()
		return nil, err
	}
	skip := func(rc *rawConn) error { _, _, err := rc.in.skip(); return err }
	run := func(d time.Duration) (total int64, trips []time.Duration, err error) {
		for start := time.Now(); time.Since(start) < d; total += int64(subscribers * k.burst) {
			begun := time.Now()
			if err := round(skip); err != nil {
				return total, trips, err
			}
			trips = append(trips, time.Since(begun))
		}
		return total, trips, nil
	}
	return &subject{name: c.lib.name, slice: outside(c, run), close: f.drop}, nil
}

// checkReply reads one message, inflates it if it is compressed, and compares it.
func checkReply(c *rawConn, in *inflater, want []byte) error {
	first, p, err := c.in.message()
	if err != nil {
		return err
	}
	if first&compressedBit != 0 {
		if p, err = in.inflate(p); err != nil {
			return err
		}
	}
	if !bytes.Equal(p, want) {
		return fmt.Errorf("%d bytes arrived that differ from the %d sent", len(p), len(want))
	}
	return nil
}

// client has the library's clients exchange echoes with the load generator's server.
func (b *bench) client() error {
	const conns = 16
	cs, end, err := b.spawnAll(func(l library) bool { return l.dial != nil })
	if err != nil {
		return err
	}
	defer end()
	for _, size := range []int{64, 1 << 10, 16 << 10, 64 << 10} {
		l, err := rawEcho(size)
		if err != nil {
			return err
		}
		subjects, err := each(cs, func(c *child) (*subject, error) {
			if _, err := c.call(request{Op: "dial", Addr: l.Addr().String(), Conns: conns, Size: size}); err != nil {
				return nil, err
			}
			return &subject{name: c.lib.name, slice: inside(c, request{Op: "run"}), close: func() {}}, nil
		})
		if err == nil {
			err = b.cell("client", fmt.Sprintf("%d connections, %s", conns, sizeName(size)), "message", subjects)
		}
		l.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// handshakes opens and ends connections, behind net/http and with the libraries' own servers.
func (b *bench) handshakes() error {
	for _, own := range []bool{false, true} {
		cs, end, err := b.spawnAll(func(l library) bool { return !own || l.serve != nil })
		if err != nil {
			return err
		}
		for _, goodbye := range []bool{false, true} {
			if err = b.connects(cs, own, goodbye); err != nil {
				break
			}
		}
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) connects(cs []*child, own, goodbye bool) error {
	name := "behind net/http"
	if own {
		name = "own server"
	}
	if goodbye {
		name += ", with close frames"
	}
	var subjects []*subject
	for _, c := range cs {
		modes := []options{{Own: own}}
		if !own && c.lib.upgrade != nil {
			modes = append(modes, options{Upgrade: true})
		}
		for _, o := range modes {
			addr, err := c.listen("echo", o)
			if err != nil {
				return err
			}
			run := func(d time.Duration) (int64, []time.Duration, error) {
				n, err := shakeHands(addr, d, goodbye)
				return n, nil, err
			}
			subjects = append(subjects, &subject{name: label(c.lib.name, o), slice: outside(c, run), close: func() {}})
		}
	}
	return b.cell("handshake", name, "connection", subjects)
}

func shakeHands(addr string, d time.Duration, goodbye bool) (int64, error) {
	const workers = 8
	counts := make([]int64, workers)
	end := time.Now().Add(d)
	err := parallel(workers, workers, func(i int) error {
		for time.Now().Before(end) {
			c, err := dialRaw(addr, options{}, 4096)
			if err == nil && goodbye {
				err = c.goodbye()
			}
			if err != nil {
				return err
			}
			c.drop()
			counts[i]++
		}
		return nil
	})
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	return total, err
}

// memory uses no kernel and no second process.
func (b *bench) memory() error {
	cs, end, err := b.spawnAll(func(l library) bool { return l.handler != nil })
	if err != nil {
		return err
	}
	defer end()
	for _, k := range []struct {
		mode string
		size int
	}{{"read", 64}, {"read", 1 << 10}, {"read", 64 << 10}, {"write", 64}} {
		subjects, err := each(cs, func(c *child) (*subject, error) {
			q := request{Op: "memory", Mode: k.mode, Size: k.size}
			return &subject{name: c.lib.name, slice: inside(c, q), close: func() {}}, nil
		})
		if err != nil {
			return err
		}
		if err := b.cell("memory", k.mode+" "+sizeName(k.size), "message", subjects); err != nil {
			return err
		}
	}
	return nil
}
