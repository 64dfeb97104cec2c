package websocket

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// tcpPair returns the two ends of a TCP connection on loopback.
func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A handler that answers the first of several pipelined messages, and then works or sleeps, does not hold its answer
// back: the deferred frame leaves without a timer. The best of a few tries is judged, for the machine is shared.
func TestDeferredReplyIsNotHeldBack(t *testing.T) {
	work := map[string]func(time.Duration){
		"computes": func(d time.Duration) {
			for start := time.Now(); time.Since(start) < d; {
			}
		},
		"sleeps": func(d time.Duration) { <-time.After(d) },
	}
	for procs, limit := range map[int]time.Duration{1: 50 * time.Millisecond, 2: 5 * time.Millisecond} {
		for name, do := range work {
			t.Run(fmt.Sprintf("%d processors, handler %s", procs, name), func(t *testing.T) {
				if runtime.NumCPU() < procs {
					t.Skip("the machine has fewer processors")
				}
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				best := time.Hour
				for try := 0; try < 10 && best > limit; try++ {
					best = min(best, replyTime(t, do))
				}
				if best > limit {
					t.Errorf("the reply took %v, want at most %v", best, limit)
				}
			})
		}
	}
}

// replyTime returns how long after the first of two pipelined messages was handled its answer arrived, while the
// handler went on with do for 100 ms.
func replyTime(t *testing.T, do func(time.Duration)) time.Duration {
	near, far := tcpPair(t)
	c := newConn(near, config{server: true, maxMessage: 1 << 20, maxPending: 1 << 20, closeTimeout: time.Second})
	defer c.CloseNow()
	frame := appendFrame(nil, &header{fin: true, masked: true, opcode: opBinary}, []byte("ping"))
	if _, err := far.Write(append(frame, frame...)); err != nil {
		t.Fatal(err)
	}
	handled := make(chan time.Time, 1)
	var handler sync.WaitGroup
	defer handler.Wait()
	handler.Go(func() {
		_, p, err := c.Read(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		if !c.more.Load() {
			t.Error("the second message does not stand in the read buffer: nothing is deferred")
		}
		if err := c.Write(context.Background(), BinaryMessage, p); err != nil {
			t.Error(err)
		}
		handled <- time.Now()
		do(100 * time.Millisecond)
	})
	if _, err := far.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	arrived := time.Now()
	return arrived.Sub(<-handled)
}
