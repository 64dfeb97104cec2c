package websocket

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A property: whatever ways of writing and of reading meet, over whatever connection, with calls cancelled in between,
// each message that was accepted arrives once, whole, and in the order of its sender.

// numbered returns message seq of a sender.
func numbered(sender, seq, n int) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(sender))
	p = binary.BigEndian.AppendUint32(p, uint32(seq))
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	for i := range n {
		p = append(p, byte(sender*7+seq*13+i/64))
	}
	return p
}

// A journal has the messages of each sender.
type journal struct {
	mu   sync.Mutex
	seqs map[int][]int
}

func (j *journal) add(sender, seq int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seqs[sender] = append(j.seqs[sender], seq)
}

// read notes p, or as much of it as was read.
func (j *journal) read(t *testing.T, p []byte, whole bool) {
	if len(p) < 12 {
		t.Errorf("a message of %d bytes", len(p))
		return
	}
	sender, seq, n := int(binary.BigEndian.Uint32(p)), int(binary.BigEndian.Uint32(p[4:])), int(binary.BigEndian.Uint32(p[8:]))
	if want := numbered(sender, seq, n); len(p) > len(want) || string(p) != string(want[:len(p)]) || whole && len(p) != len(want) {
		t.Errorf("message %d of sender %d: %d bytes of %d, or wrong ones", seq, sender, len(p), len(want))
	}
	j.add(sender, seq)
}

// A choppyConn reads and takes few bytes at a time, or none.
type choppyConn struct {
	*pipeEnd
	mu sync.Mutex
	r  *rand.Rand
}

func (c *choppyConn) chance(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(n)
}

func (c *choppyConn) Read(p []byte) (int, error) {
	return c.pipeEnd.Read(p[:min(len(p), 1+c.chance(2)*c.chance(5000))])
}

func (c *choppyConn) tryWrite(p []byte) (int, error) {
	switch c.chance(4) {
	case 0:
		return 0, nil
	case 1:
		p = p[:min(len(p), c.chance(8))]
	}
	return c.pipeEnd.tryWrite(p)
}

func choppyEnds(*testing.T) (server, client net.Conn) {
	a, b := memPipe()
	return &choppyConn{pipeEnd: a.(*pipeEnd), r: rand.New(rand.NewPCG(1, 7))}, &choppyConn{pipeEnd: b.(*pipeEnd), r: rand.New(rand.NewPCG(1, 8))}
}

// sendNumbered sends in all ways, and notes what was accepted.
func sendNumbered(t *testing.T, c *Conn, sender, count int, r *rand.Rand, accepted *journal) {
	names := slices.Sorted(maps.Keys(waysToWrite))
	for seq := range count {
		n := []int{0, 100, 400, 400, 40 << 10, 150 << 10}[r.IntN(6)]
		p := numbered(sender, seq, r.IntN(n+1))
		typ := BinaryMessage
		if r.IntN(5) == 0 {
			typ |= Uncompressed
		}
		err := waysToWrite[names[r.IntN(len(names))]](soon(t), c, typ, p)
		clear(p) // it is the sender's again
		switch {
		case err == nil:
			accepted.add(sender, seq)
		case err != ErrBacklog:
			t.Errorf("sender %d, message %d: %v", sender, seq, err)
			return
		}
		if r.IntN(10) == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(1000))*time.Microsecond)
			c.Ping(ctx)
			cancel()
		}
	}
}

// readNumbered reads in all ways, with reads cancelled and Readers abandoned, until the connection is closed.
func readNumbered(t *testing.T, c *Conn, r *rand.Rand, got *journal) {
	for c.Context().Err() == nil {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+r.IntN(2000))*time.Microsecond)
		switch r.IntN(3) {
		case 0:
			if _, p, err := c.Read(ctx); err == nil {
				got.read(t, p, true)
			}
		case 1:
			left := r.IntN(4)
			for m, err := range c.Messages(ctx) {
				if err != nil {
					break
				}
				got.read(t, m.Data, true)
				if left--; left < 0 {
					break
				}
			}
		case 2:
			readSome(t, c, r, got)
		}
		cancel()
	}
}

// readSome reads a message by a Reader, or abandons it.
func readSome(t *testing.T, c *Conn, r *rand.Rand, got *journal) {
	_, rd, err := c.Reader(t.Context())
	if err != nil {
		return
	}
	all := int64(1 << 20)
	if r.IntN(3) == 0 {
		all = 12 + int64(r.IntN(3000))
	}
	p, err := io.ReadAll(io.LimitReader(rd, all))
	if err == nil {
		got.read(t, p, int64(len(p)) < all)
	} else {
		t.Errorf("a Reader: %v", err)
	}
}

func TestProperty_EachMessageArrivesOnce(t *testing.T) {
	kinds := map[string]func(*testing.T) (net.Conn, net.Conn){
		"Choppy": choppyEnds, "TCP": func(t *testing.T) (net.Conn, net.Conn) { return tcpEnds(t) },
	}
	for _, w := range bubbleWires {
		kinds[w.name] = w.ends
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for kind, ends := range kinds {
		t.Run(kind, func(t *testing.T) {
			for range rounds {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				arrives(t, ends, rand.New(rand.NewPCG(seed, 1)))
			}
		})
	}
}

func arrives(t *testing.T, ends func(*testing.T) (net.Conn, net.Conn), r *rand.Rand) {
	a, b := ends(t)
	cfg := config{terms: terms{maxPending: []int{1, 5000, 1 << 20}[r.IntN(3)], closeTimeout: testCloseTimeout, writeTimeout: testWriteTimeout}, maxMessage: 1 << 20, keepAlive: time.Second}
	configs := [2]config{cfg, cfg}
	configs[0].server = true
	if r.IntN(3) > 0 {
		kept := r.IntN(2) == 0
		for i := range configs {
			configs[i].deflate = &deflateParams{level: 1, threshold: 50, sendTakeover: kept, recvTakeover: kept, sendBits: 12, recvBits: 12}
		}
	}
	conns := [2]*Conn{newConn(a, configs[0]), newConn(b, configs[1])}
	var accepted, got [2]*journal
	var senders, readers sync.WaitGroup
	for i, c := range conns {
		accepted[i], got[i] = &journal{seqs: map[int][]int{}}, &journal{seqs: map[int][]int{}}
		seed := r.Uint64()
		readers.Go(func() { readNumbered(t, conns[1-i], rand.New(rand.NewPCG(seed, 9)), got[i]) })
		for sender := range 3 {
			senders.Go(func() {
				sendNumbered(t, c, sender, 25, rand.New(rand.NewPCG(seed, uint64(sender))), accepted[i])
			})
		}
	}
	senders.Wait()
	for i, c := range conns {
		until(t, "all has arrived", func() bool {
			return c.Stats().Pending == 0 && c.Stats().MessagesWritten == conns[1-i].Stats().MessagesRead || c.failure() != nil
		})
	}
	conns[0].Close(StatusNormalClosure, "")
	conns[1].Close(StatusNormalClosure, "")
	readers.Wait()
	for i := range conns {
		for sender := range 3 {
			if !slices.Equal(accepted[i].seqs[sender], got[i].seqs[sender]) {
				t.Errorf("end %d, sender %d: accepted %v, got %v (%v)", i, sender, accepted[i].seqs[sender], got[i].seqs[sender], conns[i].failure())
			}
		}
	}
}
