package websocket

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// besideWindows is what a connection with context takeover may cost beside its windows.
const besideWindows = 24 << 10

// BenchmarkTakeoverMemory opens 1,000 connections that keep their windows, has a few messages go each way, and shows
// what an end of one takes when it is idle: in all, and beside its two windows, for it keeps one in each direction. What
// waits for the next message is counted, with its stack.
func BenchmarkTakeoverMemory(b *testing.B) {
	for _, bits := range []int{9, 12, 15} {
		b.Run(fmt.Sprintf("WindowBits=%d", bits), func(b *testing.B) {
			var ends float64
			for b.Loop() {
				ends = takeoverMemory(b, 1000, bits)
			}
			beside := ends - 2*float64(int(1)<<bits)
			b.ReportMetric(ends, "B/conn")
			b.ReportMetric(beside, "B/conn-beside-windows")
			if beside > besideWindows {
				b.Errorf("%.0f bytes beside the windows, want at most %d", beside, besideWindows)
			}
		})
	}
}

// takeoverMemory returns the bytes that each end of n connections takes.
func takeoverMemory(b *testing.B, n, bits int) float64 {
	o := &Options{Compression: &Compression{ContextTakeover: true, WindowBits: bits}, KeepAlive: -1}
	before := memoryInUse()
	var readers, received sync.WaitGroup
	var conns []*Conn
	for i := range n {
		server, client := Pipe(o, o)
		conns = append(conns, server, client)
		for _, c := range []*Conn{server, client} {
			received.Add(takeoverMessages)
			readers.Go(func() {
				for range takeoverMessages {
					if _, _, err := c.Read(context.Background()); err != nil {
						b.Error(err)
					}
					received.Done()
				}
				c.Read(context.Background())
			})
		}
		for j := range takeoverMessages {
			p := jsonText(uint64(i*takeoverMessages+j), 8<<10)
			for _, c := range []*Conn{server, client} {
				if err := c.Write(context.Background(), BinaryMessage, p); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	received.Wait()
	used := memoryInUse() - before
	for _, c := range conns {
		c.CloseNow()
	}
	readers.Wait()
	return float64(used) / float64(2*n)
}

// takeoverMessages go each way, and fill any window.
const takeoverMessages = 5

// memoryInUse is that of heap and stacks.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC() // a sync.Pool holds what it has over one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
