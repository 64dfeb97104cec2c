package main

import (
	"fmt"
	"time"
)

// idleConnections measures the memory that the server's process holds for each idle connection.
func (b *bench) idleConnections() error {
	for _, o := range []options{{Lean: true}, {Lean: true, TLS: true}} {
		kind := "plain"
		if o.TLS {
			kind = "TLS"
		}
		for _, lib := range b.libs {
			if lib.name == gwsParallel.name {
				continue
			}
			fmt.Fprintf(b.log, "idle: %d connections, %s, %s\n", b.idle, kind, lib.name)
			small, large, err := holdIdle(lib, o, b.idle)
			if err != nil {
				return fmt.Errorf("idle, %s, %s: %w", kind, lib.name, err)
			}
			b.report.hold(kind, "after an echo of 64 B", lib.name, small)
			b.report.hold(kind, "after an echo of 16 KiB", lib.name, large)
		}
	}
	return nil
}

// settle is time for a library to notice that its connections are idle.
const settle = 3 * time.Second

// perConn is a footprint divided by connections.
type perConn struct {
	Heap, Stack, Runtime, RSS float64 // bytes
	Goroutines                float64
}

func holdIdle(lib library, o options, n int) (small, large perConn, err error) {
	c, err := spawn(lib)
	if err != nil {
		return small, large, err
	}
	defer c.close()
	addr, err := c.listen("echo", o)
	if err != nil {
		return small, large, err
	}
	// One connection comes and goes first, so that one-time allocations do not count.
	first, err := dialFleet(addr, o, 1, 4096)
	if err != nil {
		return small, large, err
	}
	first.drop()
	time.Sleep(20 * time.Millisecond)
	base, err := c.call(request{Op: "footprint"})
	if err != nil {
		return small, large, err
	}
	f, err := dialFleet(addr, o, n, 1024)
	if err != nil {
		return small, large, err
	}
	defer f.drop()
	held := func(size int) (perConn, error) {
		p := pattern(size)
		if err := f.check(appendFrame(nil, finBit|opBinary, true, p), 1, p); err != nil {
			return perConn{}, err
		}
		time.Sleep(settle)
		r, err := c.call(request{Op: "footprint"})
		return r.Footprint.over(base.Footprint, n), err
	}
	if small, err = held(64); err != nil {
		return small, large, err
	}
	large, err = held(16 << 10)
	return small, large, err
}

func (f footprint) over(base footprint, n int) perConn {
	per := func(a, b uint64) float64 { return (float64(a) - float64(b)) / float64(n) }
	return perConn{
		Heap: per(f.Heap, base.Heap), Stack: per(f.Stack, base.Stack), Runtime: per(f.Runtime, base.Runtime), RSS: per(f.RSS, base.RSS),
		Goroutines: float64(f.Goroutines-base.Goroutines) / float64(n),
	}
}
