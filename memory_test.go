package websocket

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// What a peer can make us allocate, and what the hot paths do.

// A spoutConn is a net.Conn that gives the same bytes again and again, and then io.EOF.
type spoutConn struct {
	scriptConn
	first []byte
	again []byte
	times int64
	at    int
	last  []byte
	late  atomic.Bool // the read deadline has passed
}

func newSpout(server bool, first string, times int64, again string, last ...string) *spoutConn {
	s := &spoutConn{times: times, first: towards(server, first), again: towards(server, again)}
	s.last = towards(server, last...)
	return s
}

func (s *spoutConn) SetReadDeadline(t time.Time) error {
	s.late.Store(!t.IsZero() && !t.After(time.Now()))
	return nil
}

func (s *spoutConn) softDeadlines() {}

func (s *spoutConn) Read(p []byte) (n int, err error) {
	if s.late.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	if n = copy(p, s.first); n > 0 {
		s.first = s.first[n:]
		return n, nil
	}
	for s.times > 0 && n < len(p) {
		m := copy(p[n:], s.again[s.at:])
		n += m
		if s.at += m; s.at == len(s.again) {
			s.at = 0
			s.times--
		}
	}
	if n == 0 {
		n = copy(p, s.last)
		s.last = s.last[n:]
	}
	if n > 0 {
		return n, nil
	}
	return 0, io.EOF
}

func (s *spoutConn) Write(p []byte) (int, error) { return len(p), nil }

// spend returns the bytes and objects that f allocates, and what of it is still in use; the race detector allocates,
// and empties pools at random, so that nothing can be said with it.
func spend(f func()) (bytes, objects, live uint64) {
	if raceEnabled {
		f()
		return 0, 0, 0
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	bytes, objects = after.TotalAlloc-before.TotalAlloc, after.Mallocs-before.Mallocs
	runtime.GC()
	runtime.ReadMemStats(&after)
	return bytes, objects, after.HeapAlloc - min(after.HeapAlloc, before.HeapAlloc)
}

// eachRoleOutside is eachRole without a bubble.
func eachRoleOutside(t *testing.T, f func(t *testing.T, server bool)) {
	for _, server := range []bool{true, false} {
		t.Run(roleName(server), func(t *testing.T) { f(t, server) })
	}
}

func newLimited(nc net.Conn, server bool, limit int64) *Conn {
	return newConn(nc, config{terms: terms{server: server, closeTimeout: time.Second, maxPending: 1 << 20}, maxMessage: limit})
}

// R5, R6: a header that declares 1 GiB costs less than 64 KiB, with a limit and without one, however it is read.
func TestReceivesDeclaredLength(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, limit := range []int64{-1, 1 << 30} {
			for name, read := range map[string]func(c *Conn) error{
				"Read": func(c *Conn) error { return readOne(context.Background(), c).err },
				"Messages": func(c *Conn) error {
					_, errs := collect(c, context.Background())
					return errs[0]
				},
				"Reader": func(c *Conn) error {
					_, r, err := c.Reader(context.Background())
					if err == nil {
						_, err = r.Read(make([]byte, 100))
					}
					return err
				},
			} {
				c := newLimited(newSpout(server, "82 7f 0000000040000000", 0, "82 00"), server, limit)
				var err error
				got, _, _ := spend(func() { err = read(c) })
				wantLost(t, name, err)
				if got > 64<<10 {
					t.Errorf("%s: 1 GiB declared costs %d bytes", name, got)
				}
				c.CloseNow()
			}
		}
	})
}

// R1, R2, R9: what is refused by its header costs nothing much.
func TestReceivesRefusedWithoutMemory(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		for _, frame := range []string{"82 7f 7fffffffffffffff", "82 7f ffffffffffffffff", "83 7f 000000007fffffff", "89 7f 000000007fffffff"} {
			c := newLimited(newSpout(server, frame, 0, "82 00"), server, 1<<40)
			var err error
			got, _, _ := spend(func() { err = readOne(context.Background(), c).err })
			if err == nil || got > 64<<10 {
				t.Errorf("%s costs %d bytes: %v", frame, got, err)
			}
			c.CloseNow()
		}
	})
}

// A message of many fragments of one byte takes memory by its bytes. Were they copied for each fragment, this test would
// not come to its end.
func TestReceivesFragmentsOfOneByte(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		n := 1_000_000
		if raceEnabled {
			n = 100_000
		}
		c := newLimited(newSpout(server, "02 00", int64(n), "00 01 61", "80 00"), server, 1<<30)
		defer c.CloseNow()
		got, objects, _ := spend(func() {
			if r := readOne(context.Background(), c); r.err != nil || len(r.data) != n {
				t.Fatalf("%d bytes, %v", len(r.data), r.err)
			}
		})
		if got > uint64(4*n+n+64<<10) || objects > 200 { // and n for the string of readOne
			t.Errorf("%d fragments of one byte cost %d bytes in %d objects", n, got, objects)
		}
	})
}

// R21, R28: fragments without a byte cost nothing, and the Read among them can be cancelled.
func TestReceivesEndlessEmptyFragments(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		c := newLimited(newSpout(server, "02 00", 300_000, "00 00"), server, 1<<20)
		got, objects, _ := spend(func() { wantLost(t, "Read", readOne(context.Background(), c).err) })
		if got > 64<<10 || objects > 200 {
			t.Errorf("endless fragments cost %d bytes in %d objects", got, objects)
		}
		c.CloseNow()

		endless := newLimited(newSpout(server, "02 00", 1<<60, "00 00"), server, 1<<20)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		done := background(func() error { return readOne(ctx, endless).err })
		select {
		case err := <-done:
			wantError(t, "Read", err, context.DeadlineExceeded)
		case <-time.After(10 * time.Second):
			t.Error("R21: a Read of endless fragments is not ended by its ctx")
		}
		endless.CloseNow()
	})
}

// R24: a frame that comes byte by byte costs no object for each.
func TestReceivesByteByByteWithoutMemory(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		stream := towards(server, frameHex(0x82, pattern(50000)))
		s := &scriptConn{}
		for i := range stream {
			s.pieces = append(s.pieces, stream[i:i+1])
		}
		c := newLimited(s, server, 1<<20)
		defer c.CloseNow()
		got, objects, _ := spend(func() {
			if _, p, err := c.Read(context.Background()); err != nil || !slices.Equal(p, pattern(50000)) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
		})
		if got > 5*50000+64<<10 || objects > 200 {
			t.Errorf("50000 bytes one by one cost %d bytes in %d objects", got, objects)
		}
	})
}

// R25, R26, R27: floods of pings and pongs leave heap and goroutines as they were.
func TestReceivesFloodsOfControlFrames(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		n := 1_000_000
		if raceEnabled {
			n = 100_000
		}
		for name, frame := range map[string]string{"Pongs": "8a 04 61626364", "EmptyPongs": "8a 00", "Pings": "89 04 61626364", "PingsOf125": frameHex(0x89, pattern(125))} {
			c := newLimited(newSpout(server, "8a 00", int64(n), frame), server, 1<<20)
			goroutines := runtime.NumGoroutine()
			_, objects, live := spend(func() { wantLost(t, "Read", readOne(context.Background(), c).err) })
			c.CloseNow()
			if now := runtime.NumGoroutine(); now > goroutines+5 {
				t.Errorf("%s: %d goroutines before, %d after", name, goroutines, now)
			}
			if live > 256<<10 || name[len(name)-5:] == "Pongs" && objects > 500 {
				t.Errorf("%s: %d frames cost %d objects, %d bytes are still in use", name, n, objects, live)
			}
		}
	})
}

// "Zero allocation on the hot paths is a test": Messages and Write, both roles, with a ctx that is Background or ever
// the same.
func TestReceivesAndSendsWithoutAllocation(t *testing.T) {
	if raceEnabled {
		return // the detector allocates
	}
	eachRoleOutside(t, func(t *testing.T, server bool) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for _, n := range []int{5, 125, 2000, 60000} {
			for name, ctx := range map[string]context.Context{"Background": context.Background(), "SameContext": ctx} {
				a, b := tcpEnds(t)
				checkEcho(t, ctx, fmt.Sprintf("%s over TCP, %d bytes", name, n), a, b, server, n)
				a, b = memPipe()
				checkEcho(t, ctx, fmt.Sprintf("%s in memory, %d bytes", name, n), a, b, server, n)
			}
		}
	})
}

// checkEcho counts what an echo allocates, while a peer sends a message each time that it has got one back.
func checkEcho(t *testing.T, ctx context.Context, name string, a, b net.Conn, server bool, n int) {
	t.Helper()
	const messages, runs = 200, 5
	c := newLimited(a, server, 1<<20)
	defer b.Close()
	defer c.CloseNow()
	go func() {
		message := towards(server, frameHex(0x81, slices.Repeat([]byte("x"), n)))
		answer := make([]byte, headerSize(n, !server)+n)
		for range messages * (runs + 1) {
			if _, err := b.Write(message); err != nil {
				return
			}
			if _, err := io.ReadFull(b, answer); err != nil {
				return
			}
		}
	}()
	got := testing.AllocsPerRun(runs, func() {
		count := 0
		for m, err := range c.Messages(ctx) {
			if err != nil || len(m.Data) != n || c.Write(ctx, m.Type, m.Data) != nil {
				t.Fatal(len(m.Data), err)
			}
			if count++; count == messages {
				break
			}
		}
	})
	if got > messages/20 { // the loop itself, and a pool that was emptied
		t.Errorf("%s: %d echoes allocate %v times", name, messages, got)
	}
}

// A pipelined echo defers its answers, and allocates for a batch of them, not for each.
func TestReceivesAndSendsPipelinedWithFewAllocations(t *testing.T) {
	if raceEnabled {
		return // the detector allocates
	}
	eachRoleOutside(t, func(t *testing.T, server bool) {
		const messages, runs = 2000, 5
		a, b := tcpEnds(t)
		c := newLimited(a, server, 1<<20)
		defer b.Close()
		defer c.CloseNow()
		go func() {
			batch := towards(server, slices.Repeat([]string{"81 03 616263"}, messages)...)
			for range runs + 1 {
				b.Write(batch)
			}
		}()
		go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b}, make([]byte, 64<<10))
		got := testing.AllocsPerRun(runs, func() {
			count := 0
			for m, err := range c.Messages(context.Background()) {
				if err != nil || c.Write(context.Background(), m.Type, m.Data) != nil {
					t.Fatal(err)
				}
				if count++; count == messages {
					break
				}
			}
		})
		if got > messages/10 {
			t.Errorf("%d echoes allocate %v times", messages, got)
		}
	})
}

// What an idle connection costs begins with its Conn: 640 bytes are a size class of the runtime's, 641 would take 704.
func TestConnFitsItsSizeClass(t *testing.T) {
	if size := reflect.TypeFor[Conn]().Size(); size > 640 {
		t.Errorf("a Conn takes %d bytes", size)
	}
}
