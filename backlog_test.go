package websocket

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// What waits to be sent: Send, MaxPending, masks, buffers that are used again.

// "Send: queue a copy, never block; ErrBacklog beyond MaxPending" - nothing of it is queued, and the connection lives.
func TestSendsUpToMaxPending(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxPending = 1000 })
		blocked := block(t, c)
		var want []string
		n := 0
		for ; n < 1000; n++ {
			b := pattern(90 + n)
			err := c.Send(BinaryMessage, b)
			if err != nil {
				wantError(t, "Send", err, ErrBacklog)
				break
			}
			want = append(want, frameHex(0x82, b))
		}
		if n == 0 || n > 12 {
			t.Errorf("%d messages of 90 bytes and more were queued within 1000", n)
		}
		for range 100 {
			wantError(t, "Send", c.Send(BinaryMessage, make([]byte, 1000)), ErrBacklog)
		}
		if got := c.Stats().Pending; got > 1000+14+300<<10 {
			t.Errorf("%d bytes are pending", got)
		}
		p.next()
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		p.expect(want...)
		p.quiet()
		if err := c.Send(BinaryMessage, []byte("a")); err != nil {
			t.Errorf("Send when all is out: %v", err)
		}
		p.expect("82 01 61")
		synctest.Wait()
		if got := c.Stats().Pending; got != 0 {
			t.Errorf("%d bytes are pending when all is out", got)
		}
	})
}

// "MaxPending is no limit on a message: with nothing pending, Send takes one of any size."
func TestSendsMoreThanMaxPendingAtOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxPending = 1000 })
		data := pattern(500 << 10)
		for range 3 {
			start := time.Now()
			if err := c.Send(BinaryMessage, data); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 0 {
				t.Errorf("Send blocked for %v", d)
			}
			wantError(t, "Send of more", c.Send(BinaryMessage, data), ErrBacklog)
			p.expect(frameHex(0x82, data))
			synctest.Wait() // until what was sent counts as sent
		}
	})
}

// "Beyond it Write blocks", and goes on when there is room.
func TestSendsBeyondMaxPendingAndWaits(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxPending = 1000 })
		block(t, c)
		for c.Send(BinaryMessage, make([]byte, 100)) == nil {
		}
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 900)) })
		pending(t, "Write beyond MaxPending", wrote)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, 901)), context.DeadlineExceeded)
		for got := 0; got != 900; {
			if got = len(p.next().payload); got == 901 {
				t.Error("the cancelled message was sent")
			}
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		p.quiet()
	})
}

// "Write of a larger one waits for its turn (cancellable without a trace) and goes alone."
func TestSendsMoreThanMaxPendingInTurn(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(map[bool]string{true: "SomePending", false: "NonePending"}[before], func(t *testing.T) {
			sendsMoreInTurn(t, before)
		})
	}
}

func sendsMoreInTurn(t *testing.T, before bool) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, func(cfg *config) { cfg.maxPending = 1000 })
		block(t, c)
		want := []string{frameHex(0x82, make([]byte, 4000))}
		if before {
			c.Send(BinaryMessage, []byte("before"))
			want = []string{frameHex(0x82, []byte("before")), want[0]}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "Write", c.Write(ctx, BinaryMessage, make([]byte, 5000)), context.DeadlineExceeded)
		wrote := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 4000)) })
		pending(t, "Write of more than MaxPending", wrote)
		p.next()
		p.expect(want...)
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		p.quiet()
	})
}

// Writes that wait end with the connection.
func TestSendsNothingAfterCloseNowOfWaitingWrites(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, _ := connectRaw(t, server, func(cfg *config) { cfg.maxPending = 1000 })
		all := []<-chan error{block(t, c)}
		for n := range 5 {
			all = append(all, background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 600+n*300)) }))
		}
		pass(time.Second)
		c.CloseNow()
		for i, err := range all {
			select {
			case err := <-err:
				if i == 0 || err != nil {
					wantError(t, fmt.Sprint("Write ", i), err, net.ErrClosed)
				}
			case <-time.After(time.Minute):
				t.Fatalf("Write %d hangs", i)
			}
		}
	})
}

// A61, R44: a key for each frame, no more of them alike than chance has it.
func TestSendsMasks(t *testing.T) {
	frames := 1_000_000
	if raceEnabled {
		frames = 100_000
	}
	s := &scriptConn{}
	c := newConn(s, config{terms: terms{closeTimeout: time.Second, maxPending: 1 << 20}})
	defer c.CloseNow()
	seen := make(map[[4]byte]bool, frames)
	var last [4]byte
	again := 0
	for i := range frames {
		if err := c.Write(context.Background(), BinaryMessage, nil); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(&s.out, false)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && f.key == last {
			t.Errorf("frames %d and %d have the key %x", i-1, i, f.key)
		}
		if seen[f.key] {
			again++
		}
		seen[f.key], last = true, f.key
	}
	// n*n / 2^33 pairs are expected: 116 of a million, give or take 11.
	if most := 10 + int(1.6*float64(frames)*float64(frames)/(1<<33)); again > most {
		t.Errorf("%d of %d keys came again", again, frames)
	}
}

// R50: buffers that are used again never show bytes of another message: every byte on the wire belongs to the
// message that was written, whatever came before on this connection or another.
func TestSendsOnlyItsOwnBytes(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		r := rand.New(rand.NewPCG(6455, 50))
		var conns []*Conn
		var peers []*rawPeer
		for range 3 {
			c, p := connectRaw(t, server)
			conns, peers = append(conns, c), append(peers, p)
		}
		for i := range 600 {
			k := r.IntN(3)
			b := bytes.Repeat([]byte{byte(i)}, r.IntN(1<<r.IntN(16)))
			if err := sendAnyway(t.Context(), conns[k], r.IntN(5), b); err != nil {
				t.Fatal(err)
			}
			if got := peers[k].message(); !bytes.Equal(got, b) {
				t.Fatalf("message %d of %d bytes %x came as %d bytes %x", i, len(b), byte(i), len(got), got)
			}
		}
	})
}

func sendAnyway(ctx context.Context, c *Conn, how int, b []byte) error {
	switch how {
	case 0:
		return c.Send(BinaryMessage, b)
	case 1:
		m, err := NewPreparedMessage(BinaryMessage, b)
		if err != nil {
			return err
		}
		return c.WritePrepared(ctx, m)
	case 2:
		w, err := c.Writer(ctx, BinaryMessage)
		if err != nil {
			return err
		}
		w.Write(b[:len(b)/2])
		w.Write(b[len(b)/2:])
		return w.Close()
	}
	return c.Write(ctx, BinaryMessage, b)
}

// A prepared message is the same on any connection, of either role, with a key of its own each time.
func TestSendsPrepared(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, n := range []int{0, 5, 125, 126, 65535, 65536, 200 << 10} {
			data := pattern(n)
			m, err := NewPreparedMessage(BinaryMessage, data)
			if err != nil {
				t.Fatal(err)
			}
			clear(data)
			keys := map[[4]byte]bool{}
			for i := range 4 {
				c, p := connectRaw(t, server)
				go sendPrepared(t.Context(), c, m, i)
				f := p.next()
				if f.first != 0x82 || !bytes.Equal(f.payload, pattern(n)) {
					t.Fatalf("%d bytes: %v", n, f)
				}
				keys[f.key] = true
				c.CloseNow()
			}
			if !server && len(keys) != 4 {
				t.Errorf("A61: %d keys for 4 frames", len(keys))
			}
		}
	})
}

func sendPrepared(ctx context.Context, c *Conn, m *PreparedMessage, i int) error {
	if i%2 == 0 {
		return c.SendPrepared(m)
	}
	return c.WritePrepared(ctx, m)
}

// Stats count frames of all kinds, on the wire and before compression.
func TestSendsAndReceivesStats(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		key := uint64(4)
		if server {
			key = 0
		}
		p.send("01 03 616263", "89 01 70", "80 02 6465", "82 00")
		wantRead(t, c, TextMessage, "abcde")
		wantRead(t, c, BinaryMessage, "")
		p.expect("8a 01 70")
		c.Write(patience(t), TextMessage, []byte("Hello"))
		c.Write(patience(t), BinaryMessage, pattern(200))
		p.next()
		p.next()
		want := Stats{MessagesRead: 2, MessagesWritten: 2, PayloadRead: 5, PayloadWritten: 205,
			BytesRead: 5 + 3 + 4 + 2 + 4*(4-key), BytesWritten: 3 + 7 + 204 + 3*key}
		if got := c.Stats(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// What came at once counts message by message for the one who handles them, and for others while the reader waits.
func TestReceivesStatsOfMessagesAtOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		p.send("82 01 61", "82 02 6162", "82 03 616263", "89 00")
		synctest.Wait()
		read := background(func() error {
			n, size := uint64(0), uint64(0)
			for m, err := range c.Messages(patience(t)) {
				if err != nil {
					return err
				}
				n++
				size += uint64(len(m.Data))
				if n == 3 {
					continue
				}
				if got := c.Stats(); got.MessagesRead != n || got.PayloadRead != size {
					t.Errorf("after %d messages of %d bytes: %+v", n, size, got)
				}
			}
			return nil
		})
		synctest.Wait()
		if got := c.Stats(); got.MessagesRead != 3 || got.PayloadRead != 6 {
			t.Errorf("while the reader waits: %+v", got)
		}
		c.CloseNow()
		wantError(t, "Messages", <-read, nil)
	})
}
