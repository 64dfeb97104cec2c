package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of the protocol have a Conn at one end of a connection and a rawPeer at the other, which writes
// frames as hex and reads what the Conn sends with a reader of its own.

const (
	testCloseTimeout = 5 * time.Second
	testWriteTimeout = 30 * time.Second
	testMaxMessage   = 1 << 20
	testMaxPending   = 1 << 20
)

// eachRole runs f for a Conn of either role over each of the bubbleWires, in a bubble where time stands still while
// anybody can go on. The bubble fails when a goroutine is left.
func eachRole(t *testing.T, f func(t *testing.T, server bool)) {
	t.Helper()
	certified() // sockets are no part of a bubble
	for _, w := range bubbleWires {
		t.Run(w.name, func(t *testing.T) {
			t.Cleanup(func() { ends = pipeEnds })
			ends = w.ends
			eachRoleByPipe(t, f)
		})
	}
}

// eachRoleByPipe is eachRole over a pipe alone, for what opens connections by the hundred.
func eachRoleByPipe(t *testing.T, f func(t *testing.T, server bool)) {
	t.Helper()
	for _, server := range []bool{true, false} {
		t.Run(roleName(server), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { f(t, server) })
		})
	}
}

// inBubble runs f in a bubble. A test that failed may have left goroutines that wait for time to pass.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() {
			if t.Failed() {
				pass(48 * time.Hour)
			}
		})
		f(t)
	})
}

func roleName(server bool) string {
	if server {
		return "Server"
	}
	return "Client"
}

// wireHex returns the bytes of s, hex with gaps anywhere.
func wireHex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// frameHex returns an unmasked frame with the first byte b0.
func frameHex(b0 byte, payload []byte) string {
	b := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 65536:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return hex.EncodeToString(append(b, payload...))
}

// closeHex returns a close frame.
func closeHex(code StatusCode, reason string) string {
	return frameHex(0x88, append([]byte{byte(code >> 8), byte(code)}, reason...))
}

// asClient makes an unmasked frame, or the start of one, a client's.
func asClient(frame []byte) []byte {
	n := 2
	switch frame[1] & 0x7f {
	case 126:
		n = 4
	case 127:
		n = 10
	}
	out := bytes.Clone(frame[:n])
	out[1] |= 0x80
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	out = append(out, key[:]...)
	for i, b := range frame[n:] {
		out = append(out, b^key[i&3])
	}
	return out
}

// towards returns frames, given unmasked, as a Conn of that role wants them.
func towards(server bool, frames ...string) []byte {
	var out []byte
	for _, f := range frames {
		b := wireHex(f)
		if server {
			b = asClient(b)
		}
		out = append(out, b...)
	}
	return out
}

// A rawPeer is the other end of a Conn.
type rawPeer struct {
	t      *testing.T
	nc     net.Conn
	server bool // the role of the Conn, not of the peer
	in     *bufio.Reader
}

// connectRaw returns a Conn and its peer, over what the test runs over.
func connectRaw(t *testing.T, server bool, change ...func(*config)) (*Conn, *rawPeer) {
	t.Helper()
	a, b := ends(t)
	if !server {
		a, b = b, a
	}
	return connectOver(t, a, b, server, change...)
}

// connectOver makes a Conn of a, the other end of which is b.
func connectOver(t *testing.T, a, b net.Conn, server bool, change ...func(*config)) (*Conn, *rawPeer) {
	t.Helper()
	cfg := config{
		terms: terms{
			server:       server,
			closeTimeout: testCloseTimeout,
			writeTimeout: testWriteTimeout,
			maxPending:   testMaxPending,
		},
		maxMessage: testMaxMessage,
	}
	for _, f := range change {
		f(&cfg)
	}
	c := newConn(a, cfg)
	t.Cleanup(func() {
		c.CloseNow()
		b.Close()
	})
	return c, &rawPeer{t, b, server, bufio.NewReader(b)}
}

// send writes frames, given unmasked.
func (p *rawPeer) send(frames ...string) {
	p.t.Helper()
	p.sendBytes(towards(p.server, frames...))
}

// trySend writes frames on a goroutine that may outlive the test.
func (p *rawPeer) trySend(frames ...string) { p.nc.Write(towards(p.server, frames...)) }

func (p *rawPeer) sendBytes(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("the peer's write: %v", err)
	}
}

// A wireFrame is a frame that the Conn sent.
type wireFrame struct {
	first   byte // FIN, RSV1 to RSV3 and the opcode
	payload []byte
	key     [4]byte
	masked  bool
}

func (f wireFrame) String() string {
	if len(f.payload) > 64 {
		return fmt.Sprintf("%02x with %d bytes %x...", f.first, len(f.payload), f.payload[:16])
	}
	return fmt.Sprintf("%02x %x", f.first, f.payload)
}

// readFrame reads a frame by the words of section 5.2, and demands what they demand of one who sends.
func readFrame(r io.Reader, fromServer bool) (wireFrame, error) {
	var f wireFrame
	var head [8]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return f, err
	}
	f.first, f.masked = head[0], head[1]&0x80 != 0
	length, least := uint64(head[1]&0x7f), uint64(0)
	ext := 0
	switch length {
	case 126:
		ext, least = 2, 126
	case 127:
		ext, least = 8, 65536
	}
	if ext > 0 {
		clear(head[:])
		if _, err := io.ReadFull(r, head[8-ext:]); err != nil {
			return f, fmt.Errorf("inside a header: %w", err)
		}
		length = binary.BigEndian.Uint64(head[:])
	}
	switch opcode := f.first & 0xf; {
	case length < least || length>>63 != 0:
		return f, fmt.Errorf("A58: length %d in %d bytes", length, ext)
	case f.masked == fromServer:
		return f, fmt.Errorf("A51, A53: mask bit is %t", f.masked)
	case f.first&0x70 != 0:
		return f, fmt.Errorf("A55: reserved bits in %#x", f.first)
	case opcode > 0xa || opcode > 2 && opcode < 8:
		return f, fmt.Errorf("A56: opcode %#x", opcode)
	case opcode >= 8 && (f.first&0x80 == 0 || length > 125):
		return f, fmt.Errorf("A72, A75: control frame %#x of %d bytes", f.first, length)
	}
	return f, f.readPayload(r, length)
}

func (f *wireFrame) readPayload(r io.Reader, length uint64) error {
	if f.masked {
		if _, err := io.ReadFull(r, f.key[:]); err != nil {
			return fmt.Errorf("inside a header: %w", err)
		}
	}
	var b bytes.Buffer
	if n, err := io.CopyN(&b, r, int64(length)); err != nil {
		return fmt.Errorf("%d of %d bytes of payload: %w", n, length, err)
	}
	f.payload = b.Bytes()
	for i := range f.payload {
		f.payload[i] ^= f.key[i&3]
	}
	return nil
}

// next reads a frame; no test keeps the peer waiting for an hour.
func (p *rawPeer) next() wireFrame {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(time.Hour))
	f, err := readFrame(p.in, p.server)
	if err != nil {
		p.t.Fatalf("the peer reads a frame: %v", err)
	}
	return f
}

// expect reads frames, given unmasked.
func (p *rawPeer) expect(frames ...string) {
	p.t.Helper()
	for _, s := range frames {
		f := p.next()
		want := wireHex(s)
		if got := wireHex(frameHex(f.first, f.payload)); !bytes.Equal(got, want) {
			p.t.Fatalf("the peer reads %v, want % x", f, want[:min(len(want), 64)])
		}
	}
}

// expectClose reads a close frame with that code, or without one.
func (p *rawPeer) expectClose(code StatusCode) {
	p.t.Helper()
	p.isClose(p.next(), code)
}

func (p *rawPeer) isClose(f wireFrame, code StatusCode) {
	p.t.Helper()
	got := StatusNoStatusRcvd
	if len(f.payload) >= 2 {
		got = StatusCode(binary.BigEndian.Uint16(f.payload))
	}
	if f.first != 0x88 || got != code {
		p.t.Fatalf("the peer reads %v, want a close frame with %d", f, code)
	}
	if len(f.payload) > 2 && !validText(f.payload[2:]) {
		p.t.Errorf("A77: the reason %q is not UTF-8", f.payload[2:])
	}
}

// expectEnd demands that nothing comes any more, and that the Conn lets go of the connection.
func (p *rawPeer) expectEnd() {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(time.Hour))
	if b, err := io.ReadAll(p.in); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("the peer reads %x and %v, want the end", b[:min(len(b), 64)], err)
	}
}

// quiet demands that the Conn has sent nothing.
func (p *rawPeer) quiet() {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	if b, err := p.in.Peek(1); err == nil {
		f, err := readFrame(p.in, p.server)
		p.t.Fatalf("the peer reads %x: %v (%v), want nothing", b, f, err)
	} else if errors.Is(err, io.EOF) {
		p.t.Fatalf("the Conn let go of the connection")
	}
}

// patience returns a context that ends a test which would hang.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// A readResult is what a Read returned.
type readResult struct {
	typ  MessageType
	data string
	err  error
}

func (r readResult) String() string {
	return fmt.Sprintf("type %d, %d bytes %.64q, %v", r.typ, len(r.data), r.data, r.err)
}

func readOne(ctx context.Context, c *Conn) readResult {
	typ, p, err := c.Read(ctx)
	return readResult{typ, string(p), err}
}

// wantRead demands a message.
func wantRead(t *testing.T, c *Conn, typ MessageType, data string) {
	t.Helper()
	if got, want := readOne(patience(t), c), (readResult{typ, data, nil}); got != want {
		t.Fatalf("Read: %v, want %v", got, want)
	}
}

// background runs f on a goroutine of its own.
func background[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// pending demands that what runs in the background has not returned.
func pending[T any](t *testing.T, what string, c <-chan T) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-c:
		t.Fatalf("%s returned %v, want it to wait", what, v)
	default:
	}
}

// wantError demands that err matches each target.
func wantError(t *testing.T, what string, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: error %v, want it to match %v", what, err, target)
		}
	}
}

// wantFailure demands that err is our verdict, with that code.
func wantFailure(t *testing.T, what string, err error, code StatusCode) {
	t.Helper()
	var pe *ProtocolError
	if !errors.As(err, &pe) || pe.Code != code {
		t.Errorf("%s: error %v, want a *ProtocolError with %d", what, err, code)
		return
	}
	wantError(t, what, err, code)
}

// wantLost demands that err tells of a connection that ended without a close frame (A100).
func wantLost(t *testing.T, what string, err error) {
	t.Helper()
	var ce *CloseError
	if err == io.EOF || errors.As(err, &ce) {
		t.Errorf("A100: %s: error %v (%T)", what, err, err)
	}
	wantError(t, what, err, StatusAbnormalClosure)
}

// pass lets the time of the bubble go on.
func pass(d time.Duration) { <-time.After(d) }

// drain reads the frames that have come.
func (p *rawPeer) drain() (frames []wireFrame) {
	p.t.Helper()
	for {
		p.nc.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := p.in.Peek(1); err != nil {
			return frames
		}
		frames = append(frames, p.next())
	}
}
