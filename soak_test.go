package websocket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Soak: thousands of connections on loopback, and what they leave behind. `go test -run Soak -v .` shows the figures.

const (
	soakConns   = 10_000
	spareFiles  = 500 // descriptors that are no connections
	heapSlack   = 4 << 20
	soakBackIn  = 5 * time.Second
	soakMessage = 512
)

// soakSize returns how many connections a test has: fewer with the race detector, or where the system allows no more.
func soakSize(t *testing.T, most int, filesEach int) int {
	t.Helper()
	n := most
	if raceEnabled || testing.Short() {
		n = most / 10
	}
	limit, err := raiseFileLimit()
	if err != nil {
		t.Fatal(err)
	}
	if room := (limit - spareFiles) / filesEach; n > room {
		t.Logf("%d descriptors are allowed: %d connections instead of %d", limit, room, n)
		n = room
	}
	return n
}

// A stock is what the process holds.
type stock struct {
	goroutines, sockets int
	heap                uint64
}

func takeStock() stock {
	runtime.GC()
	runtime.GC() // a sync.Pool holds what it has over one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := resources()
	return stock{r[0], r[1], m.HeapAlloc}
}

func (s stock) String() string {
	return fmt.Sprintf("%d goroutines, %d sockets, heap of %.1f MB", s.goroutines, s.sockets, float64(s.heap)/(1<<20))
}

// takeBase is the stock before n connections come. The runtime keeps what it made for a goroutine when that has ended, for
// the next one: here that is there already.
func takeBase(n int) stock {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range 4 * n {
		wg.Go(func() { <-end })
	}
	close(end)
	wg.Wait()
	return takeStock()
}

// isBackTo reports whether s is no more than base, but for what net/http and the pools may keep.
func (s stock) isBackTo(base stock) bool {
	return s.goroutines <= base.goroutines+5 && s.sockets <= base.sockets+2 && s.heap <= base.heap+heapSlack
}

// await waits until cond holds.
func await(t *testing.T, what string, limit time.Duration, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(limit); !cond(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// wantBack demands that the process holds no more than at the start, soon.
func wantBack(t *testing.T, base stock) {
	t.Helper()
	start := time.Now()
	now := takeStock()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; !now.isBackTo(base); now = takeStock() {
		if time.Since(start) > soakBackIn {
			t.Fatalf("%v later: %v; at the start: %v", soakBackIn, now, base)
		}
		<-tick.C
	}
	t.Logf("after %v: %v; at the start: %v", time.Since(start).Round(time.Millisecond), now, base)
}

// The clients are another process, for both ends would need twice the descriptors: this one with a URL in its
// environment. It ends with its standard input.
const soakURL, soakCount = "WEBSOCKET_SOAK_URL", "WEBSOCKET_SOAK_COUNT"

func init() {
	if url := os.Getenv(soakURL); url != "" {
		log.SetFlags(0)
		n, _ := strconv.Atoi(os.Getenv(soakCount))
		if _, err := raiseFileLimit(); err != nil {
			log.Fatal(err)
		}
		conns := soakClients(url, n)
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		runtime.KeepAlive(conns)
		os.Exit(0)
	}
}

// soakClients opens n connections that have been echoed to once, and are not read any more.
func soakClients(url string, n int) []*Conn {
	conns := make([]*Conn, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				c, err := soakClient(url, i)
				if err != nil {
					log.Fatalf("client %d: %v", i, err)
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	return conns
}

func soakClient(url string, i int) (*Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := Dial(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(uint64(i), 1))
	want := make([]byte, r.IntN(soakMessage))
	for j := range want {
		want[j] = byte(r.Uint32())
	}
	if err := c.Write(ctx, BinaryMessage, want); err != nil {
		return nil, err
	}
	typ, got, err := c.Read(ctx)
	if err == nil && (typ != BinaryMessage || string(got) != string(want)) {
		err = fmt.Errorf("%d bytes came back for %d", len(got), len(want))
	}
	return c, err
}

// startClients starts the process of the clients and waits until all are there. The function it returns kills it.
func startClients(t *testing.T, url string, n int) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), soakURL+"="+url, soakCount+"="+strconv.Itoa(n))
	var complaint strings.Builder
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		in.Close()
	})
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		cmd.Wait()
		t.Fatalf("the clients: %q, %v\n%s", line, err, complaint.String())
	}
	t.Logf("%d clients have got their echo after %v", n, time.Since(start).Round(time.Millisecond))
	return kill
}

// 10,000 connections, an echo on each; dropped at once, they leave nothing behind within 5 s.
func TestSoak_EchoesAndIsDropped(t *testing.T) {
	n := soakSize(t, soakConns, 1)
	var g Group
	s := startTCP(t, Handler(&Options{Group: &g}, echoMessages))
	base := takeBase(n)
	kill := startClients(t, s.URL, n)
	await(t, "all are in the group", 5*time.Second, func() bool { return g.Len() == n })
	full := takeStock()
	t.Logf("all are there: %v", full)
	if full.goroutines > base.goroutines+n+100 {
		t.Errorf("%d goroutines for %d idle connections", full.goroutines, n)
	}
	kill()
	wantBack(t, base)
	wantMembers(t, &g)
}

// "Shutdown with 10,000 silent peers ends within CloseTimeout plus a second, not 10,000 times it."
func TestSoak_ShutdownOfSilentPeers(t *testing.T) {
	const closeTimeout = 2 * time.Second
	n := soakSize(t, soakConns, 1)
	var g Group
	s := startTCP(t, Handler(&Options{Group: &g, CloseTimeout: closeTimeout}, echoMessages))
	base := takeBase(n)
	startClients(t, s.URL, n)
	await(t, "all are in the group", 5*time.Second, func() bool { return g.Len() == n })
	start := time.Now()
	if err := g.Shutdown(testContext(t), StatusGoingAway, "deploy"); err != nil {
		t.Error(err)
	}
	d := time.Since(start)
	t.Logf("Shutdown of %d took %v, CloseTimeout is %v", n, d.Round(time.Millisecond), closeTimeout)
	if d > closeTimeout+time.Second {
		t.Errorf("Shutdown took %v", d)
	}
	wantMembers(t, &g)
	wantBack(t, base)
}

const (
	roomMessage = 4 << 10
	roomBatch   = 8 // messages that are broadcast before all have caught up

	roomCloseTimeout = 3 * time.Second
)

// A room is a broadcast to subscribers of which some never read.
type room struct {
	g       Group
	message []byte
	caught  chan struct{} // a subscriber has read a batch
	peers   sync.WaitGroup
	stuck   []*Conn      // the servers' ends
	told    atomic.Int64 // stuck peers that found 1013, when they read at last
	right   atomic.Int64 // messages that came as they should
}

// 1,000 subscribers of which 50 never read: the others get every message, the 50 are closed with 1013, and memory
// returns to its base.
func TestSoak_BroadcastToSomeWhoNeverRead(t *testing.T) {
	n := soakSize(t, 1000, 2)
	stuck, batches := n/20, 25
	base := takeBase(n)
	r := &room{message: pattern(roomMessage), caught: make(chan struct{}, n)}
	for i := range n {
		r.subscribe(t, i < stuck)
	}
	start := time.Now()
	for i := range batches {
		r.broadcastBatch(t, i, n-stuck)
	}
	t.Logf("%d messages to %d subscribers took %v", batches*roomBatch, n-stuck, time.Since(start).Round(time.Millisecond))
	if got, want := r.right.Load(), int64(batches*roomBatch*(n-stuck)); got != want {
		t.Errorf("%d messages came right, want %d", got, want)
	}
	await(t, "the slow ones have left the group", 2*roomCloseTimeout, func() bool { return r.g.Len() == n-stuck })
	await(t, "the slow ones have nothing pending", soakBackIn, func() bool {
		return !slices.ContainsFunc(r.stuck, func(c *Conn) bool { return c.Stats().Pending != 0 })
	})
	if err := r.g.Shutdown(testContext(t), StatusGoingAway, ""); err != nil {
		t.Error(err)
	}
	r.peers.Wait()
	if told := r.told.Load(); told != int64(stuck+1)/2 {
		t.Errorf("%d of %d slow ones that read at last found 1013", told, (stuck+1)/2)
	}
	wantBack(t, base)
}

// subscribe adds a subscriber, over sockets that hold little.
func (r *room) subscribe(t *testing.T, stuck bool) {
	a, b := tcpEnds(t)
	if stuck {
		a.(*net.TCPConn).SetWriteBuffer(16 << 10)
		b.(*net.TCPConn).SetReadBuffer(16 << 10)
	}
	cfg := config{terms: terms{server: true, closeTimeout: roomCloseTimeout, writeTimeout: testWriteTimeout, maxPending: 4 * roomBatch * roomMessage}, maxMessage: 1 << 20}
	server := newConn(a, cfg)
	cfg.server = false
	client := newConn(b, cfg)
	r.g.Add(server)
	r.peers.Go(func() {
		for range server.Messages(context.Background()) {
		}
	})
	if !stuck {
		r.peers.Go(func() { r.follow(client) })
		return
	}
	wake := len(r.stuck)%2 == 0
	r.stuck = append(r.stuck, server)
	r.peers.Go(func() { r.sleepAndWake(server, client, wake) })
}

// follow reads all, and answers the close frame.
func (r *room) follow(client *Conn) {
	defer client.CloseNow()
	n := 0
	for m, err := range client.Messages(context.Background()) {
		if err != nil {
			return
		}
		if want := byte(n); len(m.Data) == roomMessage && m.Data[0] == want && string(m.Data[1:]) == string(r.message[1:]) {
			r.right.Add(1)
		}
		if n++; n%roomBatch == 0 {
			r.caught <- struct{}{}
		}
	}
}

// sleepAndWake does not read before the server has given up; then it does, if wake is set, or waits until it is cut.
func (r *room) sleepAndWake(server, client *Conn, wake bool) {
	defer client.CloseNow()
	<-server.end.failing()
	for wake {
		_, _, err := client.Read(context.Background())
		if errors.Is(err, StatusTryAgainLater) {
			r.told.Add(1)
		}
		if err != nil {
			return
		}
	}
	<-server.end.closed()
}

// broadcastBatch broadcasts messages of which the first byte is their number, and waits until the quick have them.
func (r *room) broadcastBatch(t *testing.T, batch, quick int) {
	t.Helper()
	for i := range roomBatch {
		p := append([]byte(nil), r.message...)
		p[0] = byte(batch*roomBatch + i)
		if took := r.g.Broadcast(prepare(t, p)); took < quick {
			t.Fatalf("batch %d: %d of %d took it", batch, took, quick)
		}
	}
	late := time.After(30 * time.Second)
	for i := range quick {
		select {
		case <-r.caught:
		case <-late:
			t.Fatalf("batch %d: %d of %d have it", batch, i, quick)
		}
	}
}

// R25: "A ping flood from a peer that never reads costs one pending pong." A frame that it does not read is under way.
func TestSoak_PingFloodOfPeerThatNeverReads(t *testing.T) {
	eachRoleOutside(t, func(t *testing.T, server bool) {
		pings := 200_000
		if raceEnabled || testing.Short() {
			pings = 20_000
		}
		const unread = 16 << 20 // more than the sockets hold
		a, b := tcpEnds(t)
		c, p := connectOver(t, a, b, server)
		read := reads(t, c)
		wrote := background(func() error { return c.Write(context.Background(), BinaryMessage, make([]byte, unread)) })
		if _, err := p.in.Peek(1); err != nil {
			t.Fatal(err)
		}
		base := takeStock()
		flood(t, p, pings)
		await(t, "the message behind the pings is read", 30*time.Second, func() bool { return c.Stats().MessagesRead == 1 })
		now := takeStock()
		t.Logf("%d pings: %v; before: %v", pings, now, base)
		if now.heap > base.heap+1<<20 || now.goroutines > base.goroutines+2 {
			t.Errorf("%d pings: %v; before: %v", pings, now, base)
		}
		if f := p.next(); f.first != 0x82 || len(f.payload) != unread {
			t.Errorf("the frame under way: %v", f)
		}
		p.expect(frameHex(0x8a, fmt.Appendf(nil, "%0125d", pings-1)))
		p.quiet()
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		c.CloseNow()
		wantError(t, "Read", <-read, net.ErrClosed)
	})
}

// flood sends numbered pings of 125 bytes, and a message.
func flood(t *testing.T, p *rawPeer, pings int) {
	t.Helper()
	out := bufio.NewWriterSize(p.nc, 64<<10)
	for i := range pings {
		out.Write(towards(p.server, frameHex(0x89, fmt.Appendf(nil, "%0125d", i))))
	}
	out.Write(towards(p.server, "82 00"))
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}
