package main

import (
	"fmt"
	"slices"
	"time"
)

// idleConnections measures the memory that the server's process holds for each idle connection.
func (b *bench) idleConnections() error {
	for _, o := range []options{{Lean: true}, {Lean: true, TLS: true}} {
		kind := "plain"
		if o.TLS {
			kind = "TLS"
		}
		for _, lib := range b.idleLibraries() {
			fmt.Fprintf(b.log, "idle: %d connections, %s, %s\n", b.idle, kind, lib.name)
			small, large, err := holdIdle(lib, o, b.idle)
			if err != nil && lib.module == ours.module {
				return fmt.Errorf("idle, %s, %s: %w", kind, lib.name, err)
			}
			if err != nil { // nbio's engine refuses TLS handshakes when many come at once
				fmt.Fprintf(b.log, "idle, %s: %s is left out: %v\n", kind, lib.name, err)
				continue
			}
			b.report.hold(kind, "after an echo of 64 B", lib.name, small)
			b.report.hold(kind, "after an echo of 16 KiB", lib.name, large)
		}
	}
	return nil
}

// idleLibraries are those of -libs, but for one that only differs when it is busy. Beside ours are those that need no
// goroutine for an idle connection.
func (b *bench) idleLibraries() []library {
	libs := slices.DeleteFunc(slices.Clone(b.libs), func(l library) bool { return l.name == gwsParallel.name })
	for _, name := range []string{oursEvents.name, "gobwas-poller"} {
		is := func(name string) func(library) bool { return func(l library) bool { return l.name == name } }
		l, ok := findLibrary(name)
		if ok && slices.ContainsFunc(libs, is(ours.name)) && !slices.ContainsFunc(libs, is(name)) {
			libs = append(libs, l)
		}
	}
	return libs
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
