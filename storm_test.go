package websocket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Storms: every method of a Conn against every other, under -race.

// A storm runs until the Conn has ended; each goroutine does one thing again and again.
func storm(c *Conn, seed uint64) *sync.WaitGroup {
	var wg sync.WaitGroup
	ctx := context.Background()
	for i, act := range []func(r *rand.Rand, b []byte) error{
		func(_ *rand.Rand, _ []byte) error { _, _, err := c.Read(ctx); return err },
		func(r *rand.Rand, _ []byte) error { return readBriefly(c, r) },
		func(r *rand.Rand, _ []byte) error { return streamIn(c, r) },
		func(_ *rand.Rand, _ []byte) error { return rangeBriefly(c) },
		func(_ *rand.Rand, b []byte) error { return c.Write(ctx, BinaryMessage, b) },
		func(_ *rand.Rand, b []byte) error { return c.Write(ctx, BinaryMessage, b[:len(b)/100]) },
		func(r *rand.Rand, b []byte) error { return sendAnyway(ctx, c, r.IntN(5), b) },
		func(_ *rand.Rand, b []byte) error { c.Send(BinaryMessage, b); return context.Cause(c.Context()) },
		func(r *rand.Rand, b []byte) error { return writeBriefly(c, r, b) },
		func(r *rand.Rand, _ []byte) error { return pingBriefly(c, r) },
		func(_ *rand.Rand, _ []byte) error { return look(c) },
	} {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for act(r, bytes.Repeat([]byte{byte(i)}, r.IntN(1<<r.IntN(17)))) == nil {
			}
		})
	}
	return &wg
}

func briefly(r *rand.Rand) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Duration(r.IntN(1000))*time.Microsecond)
}

func readBriefly(c *Conn, r *rand.Rand) error {
	ctx, cancel := briefly(r)
	defer cancel()
	c.Read(ctx)
	return context.Cause(c.Context())
}

func streamIn(c *Conn, r *rand.Rand) error {
	ctx, cancel := briefly(r)
	defer cancel()
	if _, in, err := c.Reader(ctx); err == nil {
		io.CopyN(io.Discard, in, int64(r.IntN(10000)))
	}
	return context.Cause(c.Context())
}

func rangeBriefly(c *Conn) error {
	n := 0
	for range c.Messages(context.Background()) {
		if n++; n > 3 {
			break
		}
	}
	return context.Cause(c.Context())
}

// writeBriefly cancels only what waits for its turn: a Writer that has nothing out, or a Write of which nothing is.
func writeBriefly(c *Conn, r *rand.Rand, b []byte) error {
	ctx, cancel := briefly(r)
	defer cancel()
	w, err := c.Writer(ctx, BinaryMessage)
	if err == nil {
		w.Close()
	}
	return context.Cause(c.Context())
}

func pingBriefly(c *Conn, r *rand.Rand) error {
	ctx, cancel := briefly(r)
	defer cancel()
	c.Ping(ctx)
	return context.Cause(c.Context())
}

func look(c *Conn) error {
	c.Stats()
	c.Context().Err()
	runtime.Gosched()
	return context.Cause(c.Context())
}

func TestSendsAndReceivesInStorm(t *testing.T) {
	pairs := map[string]func(t testing.TB) (net.Conn, net.Conn){
		"Memory": func(testing.TB) (net.Conn, net.Conn) { return memPipe() },
		"Plain": func(testing.TB) (net.Conn, net.Conn) {
			a, b := memPipe()
			return newFaultyConn(a), newFaultyConn(b)
		},
	}
	for name, pair := range pairs {
		for end, f := range stormEnds {
			t.Run(name+"/"+end, func(t *testing.T) {
				for seed := range uint64(2) {
					a, b := pair(t)
					server, client := newPair(a, b)
					storms := []*sync.WaitGroup{storm(server, seed), storm(client, seed+100)}
					time.AfterFunc(30*time.Millisecond, func() { f(server, client) })
					for _, wg := range storms {
						wg.Wait()
					}
					server.CloseNow()
					client.CloseNow()
				}
			})
		}
	}
}

var stormEnds = map[string]func(server, client *Conn){
	"Close":      func(server, client *Conn) { server.Close(StatusGoingAway, "") },
	"ClientGoes": func(server, client *Conn) { client.Close(4000, "") },
	"CloseNow":   func(server, client *Conn) { client.CloseNow() },
	"All": func(server, client *Conn) {
		for range 3 {
			go server.Close(StatusGoingAway, "")
			go client.Close(StatusNormalClosure, "")
		}
		server.Ping(context.Background())
		client.CloseNow()
		server.CloseNow()
	},
	"Cut": func(server, client *Conn) { server.nc.Close() },
}

// What goes through a storm of writers arrives whole and, of each writer, in order.
func TestSendsAndReceivesInOrder(t *testing.T) {
	pairs := map[string]func(t testing.TB) (net.Conn, net.Conn){
		"Memory": func(testing.TB) (net.Conn, net.Conn) { return memPipe() }, "TCP": tcpEnds,
	}
	for name, pair := range pairs {
		for _, fromServer := range []bool{true, false} {
			t.Run(name+"/From"+roleName(fromServer), func(t *testing.T) {
				a, b := pair(t)
				from, to := newPair(a, b)
				if !fromServer {
					from, to = to, from
				}
				defer to.CloseNow()
				defer from.CloseNow()
				sendInOrder(t, from, to)
			})
		}
	}
}

func sendInOrder(t *testing.T, from, to *Conn) {
	const writers, each = 6, 150
	ctx := context.Background()
	var wg sync.WaitGroup
	defer wg.Wait()
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				b := fmt.Appendf(nil, "%d %d %s", w, i, bytes.Repeat([]byte{'a' + byte(w)}, i*i%20000))
				if err := sendAnyway(ctx, from, 1+i%4, b); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	var next [writers]int
	for range writers * each {
		_, b, err := to.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		fmt.Sscan(string(b), &w, &i)
		want := fmt.Sprintf("%d %d %s", w, i, bytes.Repeat([]byte{'a' + byte(w)}, i*i%20000))
		if i != next[w] || string(b) != want {
			from.CloseNow()
			t.Fatalf("after %d messages of writer %d: %d bytes %.40q", next[w], w, len(b), b)
		}
		next[w]++
	}
}

// Two Conns that echo to each other under cancelled reads lose nothing, over real sockets.
func TestReceivesAfterCancelledReadsOverTCP(t *testing.T) {
	a, b := tcpEnds(t)
	server, client := newPair(a, b)
	defer server.CloseNow()
	defer client.CloseNow()
	const n = 2000
	go func() {
		for i := range n {
			server.Write(context.Background(), TextMessage, fmt.Appendf(nil, "%d %s", i, bytes.Repeat([]byte("x"), i*7%9000)))
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < n; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(60))*time.Microsecond)
		_, p, err := client.Read(ctx)
		cancel()
		if err != nil {
			wantError(t, "Read", err, context.DeadlineExceeded)
			if t.Failed() {
				return
			}
			continue
		}
		if want := fmt.Sprintf("%d %s", i, bytes.Repeat([]byte("x"), i*7%9000)); string(p) != want {
			t.Fatalf("message %d: %d bytes %.40q", i, len(p), p)
		}
		i++
	}
}
