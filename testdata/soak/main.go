// Command soak runs connections of mixed behaviour against a server in the same process, for as long as it is told,
// and checks the content and the order of every message. It prints a line each second, and at the end counts what was
// done and compares heap, goroutines and descriptors with the start. It exits with 1 when anything was lost.
//
//	go run ./testdata/soak -for 30s
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"sync"
	"time"
)

func main() {
	duration := flag.Duration("for", 30*time.Second, "how long to run")
	conns := flag.Int("conns", 2000, "connections at a time")
	pause := flag.Duration("pause", 100*time.Millisecond, "longest pause of a client between two exchanges")
	flag.Parse()
	log.SetFlags(0)
	s := &soak{pause: *pause, perKind: make([]tally, len(kinds))}
	if !s.run(*duration, *conns) {
		os.Exit(1)
	}
}

// run reports whether nothing was lost.
func (s *soak) run(duration time.Duration, conns int) bool {
	warmUp()
	before := takeStock()
	fmt.Printf("start: %v\n", before)
	srv := startServer()
	s.url = srv.url
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var clients sync.WaitGroup
	for i := range conns {
		clients.Go(func() { s.client(ctx, i) })
	}
	s.report(ctx)
	if !waitFor(&clients, 2*patience) {
		s.fail("end", fmt.Errorf("clients are still at work"))
	}
	if err := srv.stop(); err != nil {
		s.fail("end", err)
	}
	s.printCounts()
	return s.compare(before) && s.failures.Load() == 0
}

func waitFor(wg *sync.WaitGroup, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// report prints a line each second until ctx is done.
func (s *soak) report(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begin, last := time.Now(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		messages := s.messages.Load()
		fmt.Printf("%4.0fs  %9d messages (%7d/s)  %6d connections  %d failures  %v\n",
			time.Since(begin).Seconds(), messages, messages-last, s.lives.Load(), s.failures.Load(), takeStock())
		last = messages
	}
}

func (s *soak) printCounts() {
	fmt.Printf("done: %d messages, %d MB of payload, %d connections, %d failures\n",
		s.messages.Load(), s.bytes.Load()>>20, s.lives.Load(), s.failures.Load())
	for i, k := range kinds {
		fmt.Printf("  %-16s %8d connections %10d messages\n", k.name, s.perKind[i].lives.Load(), s.perKind[i].messages.Load())
	}
}

// compare waits until what the connections held is given back.
func (s *soak) compare(before stock) bool {
	var now stock
	for wait := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		runtime.GC()
		now = takeStock()
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors && now.heap <= before.heap+heapSlack {
			fmt.Printf("end:   %v\n", now)
			return true
		}
		if time.Now().After(wait) {
			fmt.Printf("end:   %v: more than at the start\n", now)
			return false
		}
	}
}

// heapSlack is for what the runtime and the pools of net/http and of the package may keep.
const heapSlack = 8 << 20

// A stock is what the process holds.
type stock struct {
	heap                    uint64
	goroutines, descriptors int
}

func (s stock) String() string {
	return fmt.Sprintf("heap %.1f MB, %d goroutines, %d descriptors", float64(s.heap)/(1<<20), s.goroutines, s.descriptors)
}

func takeStock() stock {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stock{m.HeapAlloc, runtime.NumGoroutine(), descriptors()}
}

// descriptors counts those of the process, where the system shows them.
func descriptors() int {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return len(names)
}
