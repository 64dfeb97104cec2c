package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"example.com/websocket"
)

// patience bounds every exchange. It is long, for the machine may be busy.
const patience = 30 * time.Second

type soak struct {
	url                              string
	pause                            time.Duration
	lives, messages, bytes, failures atomic.Int64
	perKind                          []tally // of kinds
}

type tally struct{ lives, messages atomic.Int64 }

// fail counts a failure, and prints it unless there were many.
func (s *soak) fail(kind string, err error) {
	if s.failures.Add(1) <= 20 {
		log.Printf("%s: %v", kind, err)
	}
}

// A life is one connection of a client, from the handshake on.
type life struct {
	*soak
	kind int
	ctx  context.Context // done when the soak ends; the exchange under way is finished then
	rand *rand.Rand
	c    *websocket.Conn
	turn int
}

// kinds are the ways to behave. Each is given to an equal part of the clients.
var kinds = [...]struct {
	name string
	live func(*life) error
}{
	{"text", func(l *life) error { return l.echo("/echo", nil, websocket.TextMessage, 2000) }},
	{"binary", func(l *life) error { return l.echo("/echo", nil, websocket.BinaryMessage, 70_000) }},
	{"large", func(l *life) error { return l.echo("/stream", nil, websocket.BinaryMessage, 1<<20) }},
	{"compressed", func(l *life) error { return l.echo("/echo", &compressed, websocket.TextMessage, 5000) }},
	{"context takeover", func(l *life) error { return l.echo("/stream", &takeover, websocket.TextMessage, 5000) }},
	{"fragments", (*life).fragments},
	{"pipelined", (*life).pipelined},
	{"pings", (*life).pings},
	{"cancelled reads", (*life).cancelledReads},
	{"slow reader", (*life).slowReader},
	{"vanishing", (*life).vanish},
	{"garbage", (*life).garbage},
}

var (
	compressed = websocket.Compression{}
	takeover   = websocket.Compression{ContextTakeover: true, Threshold: -1}
)

// client lives one life after the other until ctx is done.
func (s *soak) client(ctx context.Context, id int) {
	kind := id % len(kinds)
	r := rand.New(rand.NewPCG(uint64(id), 1))
	for ctx.Err() == nil {
		l := &life{soak: s, kind: kind, ctx: ctx, rand: r}
		l.think()
		if err := kinds[kind].live(l); err != nil {
			s.fail(kinds[kind].name, err)
		}
		if l.c != nil {
			l.c.CloseNow()
		}
		s.lives.Add(1)
		s.perKind[kind].lives.Add(1)
	}
}

// think lets some time pass.
func (l *life) think() {
	select {
	case <-l.ctx.Done():
	case <-time.After(time.Duration(l.rand.Int64N(int64(l.pause) + 1))):
	}
}

// goesOn lets a life have so many turns, unless the soak ends.
func (l *life) goesOn(turns int) bool {
	l.think()
	l.turn++
	return l.turn <= turns && l.ctx.Err() == nil
}

func (l *life) dial(path string, compression *websocket.Compression) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.c, err = websocket.Dial(ctx, l.url+path, &websocket.Options{MaxMessageSize: 4 << 20, Compression: compression})
	return err
}

// hangUp closes in order.
func (l *life) hangUp() error {
	if err := l.c.Close(websocket.StatusNormalClosure, "that was all"); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// message makes one that is different from all others, of up to size bytes.
func (l *life) message(typ websocket.MessageType, size int) []byte {
	n := l.rand.IntN(size)
	if typ == websocket.BinaryMessage {
		p := make([]byte, n+8)
		for i := 0; i < len(p)-8; i += 8 {
			binary.LittleEndian.PutUint64(p[i:], l.rand.Uint64())
		}
		return p
	}
	line := fmt.Sprintf(`{"turn":%d,"value":%d,"text":"Straße, 文字, 🙂"},`, l.turn, l.rand.Uint64())
	return []byte(strings.Repeat(line, n/len(line)+1))
}

// expect reads one message, which has to be this one.
func (l *life) expect(typ websocket.MessageType, want []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, p, err := l.c.Read(ctx)
	if err != nil {
		return fmt.Errorf("turn %d: read: %w", l.turn, err)
	}
	return l.compareMessage(got, typ, p, want)
}

func (l *life) compareMessage(got, typ websocket.MessageType, p, want []byte) error {
	if got != typ || !bytes.Equal(p, want) {
		return fmt.Errorf("turn %d: sent %d bytes of type %d, and %d other bytes of type %d came back", l.turn, len(want), typ, len(p), got)
	}
	l.count(len(p))
	return nil
}

func (l *life) count(size int) {
	l.messages.Add(1)
	l.bytes.Add(int64(size))
	l.perKind[l.kind].messages.Add(1)
}

// write sends one message.
func (l *life) write(typ websocket.MessageType, p []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.c.Write(ctx, typ, p); err != nil {
		return fmt.Errorf("turn %d: write: %w", l.turn, err)
	}
	return nil
}

func (l *life) echo(path string, compression *websocket.Compression, typ websocket.MessageType, size int) error {
	if err := l.dial(path, compression); err != nil {
		return err
	}
	for l.goesOn(20) {
		p := l.message(typ, size)
		if err := l.write(typ, p); err != nil {
			return err
		}
		if err := l.expect(typ, p); err != nil {
			return err
		}
	}
	return l.hangUp()
}

// fragments sends messages in pieces that are cut anywhere, in characters too.
func (l *life) fragments() error {
	if err := l.dial("/stream", nil); err != nil {
		return err
	}
	for l.goesOn(20) {
		p := l.message(websocket.TextMessage, 5000)
		if err := l.writePieces(websocket.TextMessage, p); err != nil {
			return err
		}
		if err := l.expect(websocket.TextMessage, p); err != nil {
			return err
		}
	}
	return l.hangUp()
}

func (l *life) writePieces(typ websocket.MessageType, p []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := l.c.Writer(ctx, typ)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		n := 1 + l.rand.IntN(len(p))
		if _, err := w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return w.Close()
}

// pipelined sends many before it reads the first answer.
func (l *life) pipelined() error {
	if err := l.dial("/echo", nil); err != nil {
		return err
	}
	for l.goesOn(20) {
		sent := make([][]byte, 50)
		for i := range sent {
			sent[i] = l.message(websocket.BinaryMessage, 300)
			if err := l.c.Send(websocket.BinaryMessage, sent[i]); err != nil {
				return err
			}
		}
		for _, p := range sent {
			if err := l.expect(websocket.BinaryMessage, p); err != nil {
				return err
			}
		}
	}
	return l.hangUp()
}

// pings go out while a reader waits for messages.
func (l *life) pings() error {
	if err := l.dial("/echo", nil); err != nil {
		return err
	}
	l.c.CloseRead(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), patience+20*l.pause)
	defer cancel()
	for l.goesOn(20) {
		if _, err := l.c.Ping(ctx); err != nil {
			return fmt.Errorf("turn %d: ping: %w", l.turn, err)
		}
		l.count(0)
	}
	return l.hangUp()
}

// cancelledReads gives up waiting again and again, and still gets every message.
func (l *life) cancelledReads() error {
	if err := l.dial("/stream", nil); err != nil {
		return err
	}
	for l.goesOn(20) {
		p := l.message(websocket.BinaryMessage, 100_000)
		if err := l.write(websocket.BinaryMessage, p); err != nil {
			return err
		}
		typ, got, err := l.readImpatiently()
		if err != nil {
			return err
		}
		if err := l.compareMessage(typ, websocket.BinaryMessage, got, p); err != nil {
			return err
		}
	}
	return l.hangUp()
}

func (l *life) readImpatiently() (websocket.MessageType, []byte, error) {
	for begin := time.Now(); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(l.rand.IntN(1000))*time.Microsecond)
		typ, p, err := l.c.Read(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > patience {
			return typ, p, err
		}
	}
}

// slowReader takes a burst of messages with pauses, and looks that none is missing.
func (l *life) slowReader() error {
	const n = 3000
	if err := l.dial(fmt.Sprintf("/burst?n=%d", n), nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience+n*l.pause/50)
	defer cancel()
	next := 0
	for m, err := range l.c.Messages(ctx) {
		if err != nil {
			return fmt.Errorf("message %d: %w", next, err)
		}
		if len(m.Data) != burstSize || int(binary.BigEndian.Uint32(m.Data)) != next {
			return fmt.Errorf("message %d: %d bytes that begin with % x", next, len(m.Data), m.Data[:4])
		}
		l.count(len(m.Data))
		if next++; next == n {
			return l.hangUp()
		}
		if next%50 == 0 {
			l.think()
		}
	}
	return fmt.Errorf("%d of %d messages came", next, n)
}

// vanish goes away in the middle of a message.
func (l *life) vanish() error {
	if err := l.dial("/stream", nil); err != nil {
		return err
	}
	w, err := l.c.Writer(context.Background(), websocket.TextMessage)
	if err != nil {
		return err
	}
	w.Write([]byte("the last words were"))
	l.think()
	if l.rand.IntN(2) == 0 {
		return l.c.NetConn().Close()
	}
	return l.c.CloseNow()
}

// wrong holds frames that a server has to refuse.
var wrong = []string{
	"\x81\x05Hello",                        // not masked
	"\x91\x80\x00\x00\x00\x00",             // a reserved bit
	"\x83\x80\x00\x00\x00\x00",             // an unknown opcode
	"\x80\x80\x00\x00\x00\x00",             // a continuation of nothing
	"\x09\x80\x00\x00\x00\x00",             // a fragmented ping
	"\x89\xFE\x00\x7E\x00\x00\x00\x00",     // a ping of 126 bytes
	"\x82\xFE\x00\x01\x00\x00\x00\x00x",    // a length in more bytes than it needs
	"\x82\xFF\x80\x00\x00\x00\x00\x00\x00", // a length with its top bit set
	"\x82\xFF\x00\x00\x00\xFF\x00\x00\x00", // a length beyond the limit
	"\x81\x81\x00\x00\x00\x00\xFF",         // text that is not UTF-8
	"\x88\x81\x00\x00\x00\x00x",            // a close frame of one byte
	"\x88\x82\x00\x00\x00\x00\x03\xED",     // a close code that is never sent
	"\xC2\x80\x00\x00\x00\x00",             // compression that was not agreed on
}

const upgradeRequest = "GET /echo HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// garbage sends a wrong frame and noise behind it, and waits for the server's close frame and its end of the
// connection.
func (l *life) garbage() error {
	addr := strings.TrimPrefix(l.url, "ws://")
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(nc, upgradeRequest, addr)
	frame := wrong[l.rand.IntN(len(wrong))]
	if _, err := io.WriteString(nc, frame); err != nil {
		return err
	}
	nc.Write(l.message(websocket.BinaryMessage, 2000)) // it may be cut off by then
	answer, err := io.ReadAll(nc)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("% x is not refused", frame)
	}
	head, frames, _ := strings.Cut(string(answer), "\r\n\r\n")
	if err == nil && (!strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.HasPrefix(frames, "\x88")) {
		return fmt.Errorf("% x is answered %.20q, % x", frame, head, frames)
	}
	l.count(len(frame))
	return nil
}
