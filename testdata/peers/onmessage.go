package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Scenarios for libraries whose idle connections hold no goroutine.

// eventEcho: a message in flight on each connection, so that none is idle, except before its library's turn.
func (b *bench) eventEcho() error {
	payload := pattern(125)
	frame := appendFrame(nil, finBit|opBinary, true, payload)
	for _, conns := range []int{1, 64, 1000} {
		cs, end, err := b.spawnAll(nil)
		if err != nil {
			return err
		}
		subjects, err := each(cs, func(c *child) (*subject, error) {
			x := exchange{out: frame, replies: 1, messages: 1, timed: conns <= 64}
			s, err := exchanges(c, "echo", options{}, conns, 1024, x, func(f fleet) error { return f.check(frame, 1, payload) })
			return awake(s), err
		})
		if err == nil {
			err = b.cell("events", fmt.Sprintf("%d connections, 125 B", conns), "message", subjects)
		}
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// awake puts a short slice before each, so that those that are measured begin with connections that were not idle.
func awake(s *subject) *subject {
	if s == nil {
		return nil
	}
	measured := s.slice
	s.slice = func(d time.Duration) (sample, error) {
		if _, err := measured(d / 4); err != nil {
			return sample{}, err
		}
		return measured(d)
	}
	return s
}

// eventBusy: a message in flight on one connection in a hundred, while the others are idle.
func (b *bench) eventBusy() error {
	payload := pattern(125)
	frame := appendFrame(nil, finBit|opBinary, true, payload)
	name := fmt.Sprintf("%d connections, 1 %% busy, 125 B", b.idle)
	return b.fleets("busy", name, "echo", func(f fleet) loadRun {
		var busy fleet
		for i := 0; i < len(f); i += 100 {
			busy = append(busy, f[i])
		}
		x := exchange{out: frame, replies: 1, messages: 1, timed: true}
		return func(d time.Duration) (int64, []time.Duration, error) { return busy.run(x, d) }
	})
}

// eventChatter: every connection is idle, but for a message a second.
func (b *bench) eventChatter() error {
	x := exchange{out: appendFrame(nil, finBit|opBinary, true, pattern(125)), replies: 1, messages: 1, timed: true}
	name := fmt.Sprintf("%d connections, a message of 125 B each second", b.idle)
	return b.fleets("chatter", name, "echo", func(f fleet) loadRun {
		return func(d time.Duration) (int64, []time.Duration, error) { return f.pace(x, time.Second, d) }
	})
}

const (
	nap       = 10 * time.Millisecond // how long the server's function sleeps for a message of one byte
	nappers   = 1000
	napEvery  = 200 * time.Millisecond
	others    = 64
	echoEvery = 10 * time.Millisecond
)

// eventSleep: the round trips of some connections, without and with a thousand others whose function sleeps.
func (b *bench) eventSleep() error {
	echo := exchange{out: appendFrame(nil, finBit|opBinary, true, pattern(125)), replies: 1, messages: 1, timed: true}
	sleep := exchange{out: appendFrame(nil, finBit|opBinary, true, []byte{1}), replies: 1, messages: 1}
	for _, n := range []int{0, nappers} {
		name := fmt.Sprintf("%d connections, 125 B each %v, beside %d that sleep %v each %v", others, echoEvery, n, nap, napEvery)
		err := b.fleetsOf("sleep", name, "nap", others+n, func(f fleet) loadRun {
			return func(d time.Duration) (int64, []time.Duration, error) {
				done := make(chan error, 1)
				go func() {
					_, _, err := f[others:].pace(sleep, napEvery, d)
					done <- err
				}()
				n, trips, err := f[:others].pace(echo, echoEvery, d)
				if e := <-done; err == nil {
					err = e
				}
				return n, trips, err
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// A loadRun is a fleet's part in a slice.
type loadRun func(d time.Duration) (int64, []time.Duration, error)

func (b *bench) fleets(scenario, name, mode string, load func(fleet) loadRun) error {
	return b.fleetsOf(scenario, name, mode, b.idle, load)
}

// fleetsOf measures a cell in which n connections to a server are idle before each slice. They are made for it, because
// those to all servers together may be more than a process may have.
func (b *bench) fleetsOf(scenario, name, mode string, n int, load func(fleet) loadRun) error {
	cs, end, err := b.spawnAll(nil)
	if err != nil {
		return err
	}
	defer end()
	subjects, err := each(cs, func(c *child) (*subject, error) {
		addr, err := c.listen(mode, options{Lean: true})
		slice := func(d time.Duration) (sample, error) {
			f, err := idleFleet(addr, n)
			if err != nil {
				return sample{}, err
			}
			defer f.drop()
			return outside(c, load(f))(d)
		}
		return &subject{name: c.lib.name, slice: slice, close: func() {}}, err
	})
	if err != nil {
		return err
	}
	return b.cell(scenario, name, "message", subjects)
}

// idleFleet returns connections that have been idle for a while after an echo.
func idleFleet(addr string, n int) (fleet, error) {
	f, err := dialFleet(addr, options{}, n, 1024)
	if err != nil {
		return nil, err
	}
	payload := pattern(125)
	if err := f.check(appendFrame(nil, finBit|opBinary, true, payload), 1, payload); err != nil {
		f.drop()
		return nil, err
	}
	time.Sleep(settle)
	return f, nil
}

// pace has every connection repeat the exchange once in each period, spread over it, until d has passed.
func (f fleet) pace(x exchange, period, d time.Duration) (int64, []time.Duration, error) {
	begin := time.Now()
	var total atomic.Int64
	trips := make([][]time.Duration, len(f))
	err := parallel(len(f), len(f), func(i int) error {
		at := begin.Add(period * time.Duration(i) / time.Duration(len(f)))
		for ; at.Sub(begin) < d; at = at.Add(period) {
			time.Sleep(time.Until(at))
			t, err := f[i].once(x)
			if err != nil {
				return err
			}
			total.Add(x.messages)
			trips[i] = append(trips[i], t)
		}
		return nil
	})
	return total.Load(), slices.Concat(trips...), err
}

// once is one exchange, and returns how long it took.
func (c *rawConn) once(x exchange) (time.Duration, error) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a lost message must end the run
	start := time.Now()
	if _, err := c.Write(x.out); err != nil {
		return 0, err
	}
	for range x.replies {
		if _, _, err := c.in.skip(); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// napping is an echo server whose function sleeps before it answers a message of one byte.
func napping() events {
	return events{message: func(c conn, text bool, m []byte) {
		if len(m) == 1 {
			time.Sleep(nap)
		}
		_ = c.send(text, m)
	}}
}
