package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// In the tests of the protocol, one end of a connection is a Conn and the other a rawPeer, which writes frames given as
// hex and reads the Conn's frames with a parser of its own. They run in testing/synctest bubbles, which fail if a
// goroutine is left over. Bubbles cannot contain sockets: conversation_test.go and socket_test.go test those.

const (
	testCloseTimeout = 5 * time.Second
	testWriteTimeout = 30 * time.Second
	testMaxMessage   = 1 << 20
	testMaxPending   = 1 << 20
)

// testConfig returns the configuration of a Conn in tests.
func testConfig(server bool, change ...func(*config)) config {
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
	return cfg
}

func smallPending(cfg *config) { cfg.maxPending = 1000 }
func smallLimit(cfg *config)   { cfg.maxMessage = 10 }
func withoutLimit(cfg *config) { cfg.maxMessage = -1 }
func keepAlive(cfg *config)    { cfg.keepAlive = 30 * time.Second }

// deflating agrees on permessage-deflate for messages of any length, with or without context takeover.
func deflating(kept bool) func(*config) {
	return func(cfg *config) {
		cfg.deflate = &deflateParams{level: 1, threshold: 1, sendTakeover: kept, recvTakeover: kept, sendBits: 15, recvBits: 15}
	}
}

// inBubble runs f in a bubble. Goroutines that a failed test has left get the time that they wait for.
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

// inBubbleIn is inBubble in a subtest, for a row of a table.
func inBubbleIn(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { inBubble(t, f) })
}

// eachRole runs f for a server and for a client, each in a bubble.
func eachRole(t *testing.T, f func(t *testing.T, server bool)) {
	t.Helper()
	eachRoleOutside(t, func(t *testing.T, server bool) {
		inBubble(t, func(t *testing.T) { f(t, server) })
	})
}

// eachRoleIn is eachRole in a subtest.
func eachRoleIn(t *testing.T, name string, f func(t *testing.T, server bool)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { eachRole(t, f) })
}

// eachRoleOutside is eachRole without a bubble.
func eachRoleOutside(t *testing.T, f func(t *testing.T, server bool)) {
	t.Helper()
	for _, server := range []bool{true, false} {
		t.Run(roleName(server), func(t *testing.T) { f(t, server) })
	}
}

// eachConn runs f with a Conn of each role, over a pipe.
func eachConn(t *testing.T, f func(t *testing.T, c *Conn, p *rawPeer), change ...func(*config)) {
	t.Helper()
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server, change...)
		f(t, c, p)
	})
}

// eachConnIn is eachConn in a subtest.
func eachConnIn(t *testing.T, name string, f func(t *testing.T, c *Conn, p *rawPeer), change ...func(*config)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { eachConn(t, f, change...) })
}

// eachWire is eachConn over each of bubbleWires. It is for deadlines, half-closing, and waits that are interrupted.
func eachWire(t *testing.T, f func(t *testing.T, c *Conn, p *rawPeer), change ...func(*config)) {
	t.Helper()
	certified()
	for _, w := range bubbleWires {
		t.Run(w.name, func(t *testing.T) {
			eachRole(t, func(t *testing.T, server bool) {
				near, far := w.ends(t)
				if !server {
					near, far = far, near
				}
				if foreign, ok := far.(foreignConn); ok { // it is the Conn that shall meet its timeouts
					far = foreign.Conn
				}
				c, p := connectOver(t, near, far, server, change...)
				p.wire = w.name
				f(t, c, p)
			})
		})
	}
}

// eachWireIn is eachWire in a subtest.
func eachWireIn(t *testing.T, name string, f func(t *testing.T, c *Conn, p *rawPeer), change ...func(*config)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { eachWire(t, f, change...) })
}

// eachText runs f with texts that RFC 3629 allows and with texts that it does not, alone and after a long line.
func eachText(t *testing.T, f func(t *testing.T, text string, valid bool)) {
	for _, before := range []string{"", strings.Repeat("a long line of ASCII, and then: ", 50)} {
		for _, c := range utf8Cases {
			t.Run(c.name, func(t *testing.T) { f(t, before+c.bytes, c.whole) })
		}
	}
}

func roleName(server bool) string {
	if server {
		return "Server"
	}
	return "Client"
}

// bubbleWires are the kinds of connection that a Conn in a bubble runs over. All of them are made of pipes.
var bubbleWires = []struct {
	name string
	ends func(t *testing.T) (server, client net.Conn)
}{
	{"Pipe", pipeEnds},
	{"Foreign", func(*testing.T) (server, client net.Conn) { a, b := memPipe(); return foreignConn{a}, foreignConn{b} }},
	{"TLS", tlsEnds},
	{"HTTP2", func(t *testing.T) (server, client net.Conn) { return http2Ends(t, true) }},
	{"h2c", func(t *testing.T) (server, client net.Conn) { return http2Ends(t, false) }},
}

// memPipe returns the two ends of an in-memory connection.
func memPipe() (net.Conn, net.Conn) { return newPipe() }

func pipeEnds(*testing.T) (server, client net.Conn) { return memPipe() }

// certified returns the TLS settings of a server and a client for example.com. It uses a socket: call it before a
// bubble begins.
var certified = sync.OnceValues(func() (server, client *tls.Config) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
})

func tlsEnds(t *testing.T) (server, client net.Conn) {
	t.Helper()
	return overTLS(t, memPipe)
}

// overTLS returns the ends of a TLS connection over the ends that ends returns.
func overTLS[C net.Conn](t *testing.T, ends func() (C, C)) (server, client net.Conn) {
	t.Helper()
	ofServer, ofClient := certified()
	a, b := ends()
	s, c := tls.Server(a, ofServer), tls.Client(b, ofClient)
	shaken := background(s.Handshake)
	must(t, errors.Join(c.Handshake(), <-shaken))
	return s, c
}

// raceEnabled reports whether the race detector is on. It allocates and is slow.
var raceEnabled = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// smallWindows make a stream of HTTP/2 hold less than the tests write to a peer that does not read.
var smallWindows = &http.HTTP2Config{MaxReceiveBufferPerStream: 128 << 10, MaxReceiveBufferPerConnection: 128 << 10}

// http2Ends returns the two ends of an HTTP/2 stream, which ends with the test.
func http2Ends(t *testing.T, secure bool) (server, client net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	s := serveHTTP2(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, &Options{KeepAlive: -1})
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- c.nc
		awaitStream(c)
	}))
	client = s.dial(t, Options{KeepAlive: -1}).nc
	return <-accepted, client
}

// tcpEnds returns the two ends of a TCP connection on loopback.
func tcpEnds(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	return socketEnds(t, "tcp", "127.0.0.1:0")
}

// socketEnds returns the two ends of a connection to a listener, which is closed again.
func socketEnds(t testing.TB, network, address string) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	defer l.Close()
	b, err := net.Dial(network, l.Addr().String())
	must(t, err)
	a, err := l.Accept()
	must(t, err)
	return a, b
}

// wireHex decodes hex, in which spaces are ignored.
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

// closeHex returns an unmasked close frame.
func closeHex(code StatusCode, reason string) string {
	return frameHex(0x88, append([]byte{byte(code >> 8), byte(code)}, reason...))
}

// towards returns frames as a Conn of the given role expects them: masked for a server.
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

// asClient masks a frame, or the beginning of one.
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

// pattern returns n bytes, each of which differs from its neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// connectRaw returns a Conn and its peer, over a pipe.
func connectRaw(t *testing.T, server bool, change ...func(*config)) (*Conn, *rawPeer) {
	t.Helper()
	a, b := memPipe()
	return connectOver(t, a, b, server, change...)
}

// connectOver makes a Conn of a, whose other end is b.
func connectOver(t *testing.T, a, b net.Conn, server bool, change ...func(*config)) (*Conn, *rawPeer) {
	t.Helper()
	c := newConn(a, testConfig(server, change...))
	t.Cleanup(func() {
		c.CloseNow()
		b.Close()
	})
	return c, &rawPeer{t, b, server, "", bufio.NewReader(b)}
}

// newPair makes a Conn of each end.
func newPair(a, b net.Conn, change ...func(*config)) (server, client *Conn) {
	return newConn(a, testConfig(true, change...)), newConn(b, testConfig(false, change...))
}

// patience returns a context that keeps a test in a bubble from hanging.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// soon returns a context that keeps a test outside of a bubble from hanging.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until polls a condition, outside of a bubble.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); pass(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%s: still not so", what)
		}
	}
}

// pass waits, in a bubble without taking time.
func pass(d time.Duration) { <-time.After(d) }

// background runs f on another goroutine.
func background[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// pending fails the test if a call in the background has returned.
func pending[T any](t *testing.T, what string, c <-chan T) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-c:
		t.Fatalf("%s returned %v, want it to wait", what, v)
	default:
	}
}

// returned waits for a call in the background, for at most an hour of the bubble's time.
func returned[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	return returnedBy(t, what, c, time.After(time.Hour))
}

// returnedSoon is returned outside of a bubble.
func returnedSoon[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	return returnedBy(t, what, c, time.After(20*time.Second))
}

func returnedBy[T any](t *testing.T, what string, c <-chan T, late <-chan time.Time) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-late:
		t.Fatalf("%s hangs", what)
	}
	return v
}

// took checks how long something took by the bubble's clock.
func took(t *testing.T, what string, start time.Time, want time.Duration) {
	t.Helper()
	wantEqual(t, what, time.Since(start), want)
}

// tookAtMost checks that something took at most so long by the bubble's clock.
func tookAtMost(t *testing.T, what string, start time.Time, most time.Duration) {
	t.Helper()
	if d := time.Since(start); d > most {
		t.Errorf("%s: after %v, want at most %v", what, d, most)
	}
}

// A readResult is the result of Read.
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

// reads reads in the background until the connection ends, and returns the error.
func reads(t *testing.T, c *Conn) <-chan error {
	ctx := patience(t)
	return background(func() error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return err
			}
		}
	})
}

// collect ranges over Messages to the end and returns the messages and errors.
func collect(c *Conn, ctx context.Context) (got []string, errs []error) {
	for m, err := range c.Messages(ctx) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		got = append(got, fmt.Sprintf("%d:%s", m.Type, m.Data))
	}
	return got, errs
}

func pingError(ctx context.Context, c *Conn) error {
	_, err := c.Ping(ctx)
	return err
}

// waysToRead are the ways to read one message.
var waysToRead = map[string]func(ctx context.Context, c *Conn) (MessageType, []byte, error){
	"Read": func(ctx context.Context, c *Conn) (MessageType, []byte, error) { return c.Read(ctx) },
	"Reader": func(ctx context.Context, c *Conn) (MessageType, []byte, error) {
		typ, r, err := c.Reader(ctx)
		if err != nil {
			return 0, nil, err
		}
		p, err := io.ReadAll(iotest.HalfReader(r))
		return typ, p, err
	},
	"Messages": func(ctx context.Context, c *Conn) (MessageType, []byte, error) {
		for m, err := range c.Messages(ctx) {
			return m.Type, bytes.Clone(m.Data), err
		}
		return 0, nil, io.EOF
	},
	"OnMessage": takeDelivered,
}

// takeDelivered has one message delivered.
func takeDelivered(ctx context.Context, c *Conn) (typ MessageType, p []byte, err error) {
	if ctx == nil {
		return 0, nil, errNilContext
	}
	called := make(chan struct{})
	c.OnMessage(func(m Message, e error) {
		c.OnMessage(nil)
		typ, p, err = m.Type, bytes.Clone(m.Data), e
		close(called)
	})
	select {
	case <-called:
		return typ, p, err
	case <-ctx.Done():
	}
	c.OnMessage(nil)
	for c.in.deliver.Load().isServed() {
		runtime.Gosched()
	}
	select {
	case <-called: // the message had arrived
		return typ, p, err
	default:
		return 0, nil, c.end.errorOf(ctx)
	}
}

// isServed reports whether a goroutine or the poller serves d.
func (d *delivery) isServed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state != deliveryIdle
}

// waysToCollect are the ways to read all messages until the connection ends, or ctx. Each returns what collect does.
var waysToCollect = map[string]func(c *Conn, ctx context.Context) (got []string, errs []error){
	"Messages": collect,
	"OnMessage": func(c *Conn, ctx context.Context) (got []string, errs []error) {
		for {
			typ, p, err := takeDelivered(ctx, c)
			switch {
			case err == nil:
				got = append(got, fmt.Sprintf("%d:%s", typ, p))
			case endsQuietly(err):
				return got, nil
			default:
				return got, []error{err}
			}
		}
	},
}

// waysToWrite are the ways to write one message.
var waysToWrite = map[string]func(ctx context.Context, c *Conn, typ MessageType, p []byte) error{
	"Write": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error { return c.Write(ctx, typ, p) },
	"Send":  func(_ context.Context, c *Conn, typ MessageType, p []byte) error { return c.Send(typ, p) },
	"WritePrepared": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		m, err := NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return c.WritePrepared(ctx, m)
	},
	"SendPrepared": func(_ context.Context, c *Conn, typ MessageType, p []byte) error {
		m, err := NewPreparedMessage(typ, p)
		if err != nil {
			return err
		}
		return c.SendPrepared(m)
	},
	"Writer": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		for piece := 1; len(p) > 0; piece = piece*3 + 1 { // in fragments, some of which cut characters
			n := min(piece, len(p))
			if _, err := w.Write(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
		return w.Close()
	},
	"ReadFrom": func(ctx context.Context, c *Conn, typ MessageType, p []byte) error {
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(p)); err != nil {
			return err
		}
		return w.Close()
	},
}

// wholeWays are the ways to write a message in one frame.
var wholeWays = []string{"Write", "Send", "WritePrepared", "SendPrepared"}

// prepare makes a binary message.
func prepare(t testing.TB, p []byte) *PreparedMessage {
	t.Helper()
	m, err := NewPreparedMessage(BinaryMessage, p)
	must(t, err)
	return m
}

// openWriter begins a message.
func openWriter(t *testing.T, ctx context.Context, c *Conn, typ MessageType) io.WriteCloser {
	t.Helper()
	w, err := c.Writer(ctx, typ)
	must(t, err)
	return w
}

// openReader begins to read a message.
func openReader(t *testing.T, ctx context.Context, c *Conn) io.Reader {
	t.Helper()
	_, r, err := c.Reader(ctx)
	must(t, err)
	return r
}

// wantRead fails the test unless the next message is this one.
func wantRead(t *testing.T, c *Conn, typ MessageType, data string) {
	t.Helper()
	if got, want := readOne(patience(t), c), (readResult{typ, data, nil}); got != want {
		t.Fatalf("Read: %v, want %v", got, want)
	}
}

// must ends the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantEqual checks that got equals want.
func wantEqual[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %.200s, want %.200s", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

// wantOK checks that err is nil.
func wantOK(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// wantError checks that err matches each target.
func wantError(t *testing.T, what string, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: error %v, want it to match %v", what, err, target)
		}
	}
}

// wantFailure checks that err is a *ProtocolError with that code.
func wantFailure(t *testing.T, what string, err error, code StatusCode) {
	t.Helper()
	var pe *ProtocolError
	if !errors.As(err, &pe) || pe.Code != code {
		t.Errorf("%s: error %v, want a *ProtocolError with %d", what, err, code)
		return
	}
	wantError(t, what, err, code)
}

// wantClosed checks that err is the *CloseError of the peer's close frame.
func wantClosed(t *testing.T, what string, err error, code StatusCode, reason string) {
	t.Helper()
	var ce *CloseError
	if !errors.As(err, &ce) || *ce != (CloseError{code, reason}) {
		t.Errorf("%s: error %v, want the close frame %d %q", what, err, code, reason)
	}
}

// wantLost checks that err is that of a connection that ended without a close frame.
func wantLost(t *testing.T, what string, err error) {
	t.Helper()
	var ce *CloseError
	if err == io.EOF || errors.As(err, &ce) {
		t.Errorf("%s: error %v (%T), want a lost connection", what, err, err)
	}
	wantError(t, what, err, StatusAbnormalClosure)
}

// wantSticky checks that every later read and write returns the same error without waiting.
func wantSticky(t *testing.T, c *Conn, err error) {
	t.Helper()
	start := time.Now()
	for range 2000 {
		if r := readOne(context.Background(), c); r.err != err {
			t.Fatalf("a later Read: %v, want %v", r, err)
		}
	}
	wantEqual(t, "a later Write", c.Write(context.Background(), BinaryMessage, []byte("x")), err)
	took(t, "later calls", start, 0)
}

// wantFailed checks that the close frame comes at once and the connection ends in bounded time (section 7.1.7).
func wantFailed(t *testing.T, p *rawPeer, code StatusCode) {
	t.Helper()
	start := time.Now()
	f := p.next()
	for f.first == 0x8a {
		f = p.next()
	}
	p.isClose(f, code)
	took(t, "the close frame", start, 0)
	p.expectEnd()
	tookAtMost(t, "the connection", start, testCloseTimeout)
}

// wantEnded checks that the connection ends within an hour of the bubble's time.
func wantEnded(t *testing.T, c *Conn) {
	t.Helper()
	select {
	case <-c.Context().Done():
	case <-time.After(time.Hour):
		t.Error("the connection has not ended")
	}
}

// wantAlive checks that messages pass in both directions.
func wantAlive(t *testing.T, c *Conn, p *rawPeer) {
	t.Helper()
	wrote := background(func() error { return c.Write(patience(t), TextMessage, []byte("still")) })
	p.expect("81 05 7374696c6c")
	wantOK(t, "a later Write", returned(t, "Write", wrote))
	p.send("81 05 7374696c6c")
	wantRead(t, c, TextMessage, "still")
}

// wantPending checks how many bytes wait to be sent, once every goroutine of the bubble is blocked.
func wantPending(t *testing.T, c *Conn, want int) {
	t.Helper()
	synctest.Wait()
	wantEqual(t, "pending bytes", c.Stats().Pending, want)
}

// block begins a Write of more than a pipe or a socket holds.
func block(t *testing.T, c *Conn) <-chan error {
	t.Helper()
	blocked := background(func() error { return c.Write(patience(t), BinaryMessage, make([]byte, 300<<10)) })
	pending(t, "Write to a peer that does not read", blocked)
	return blocked
}

// fillPipe fills the pipe to the peer with one message.
func fillPipe(t *testing.T, c *Conn, p *rawPeer) {
	t.Helper()
	must(t, c.Write(patience(t), BinaryMessage, make([]byte, pipeSize-headerSize(pipeSize-1, !p.server))))
}

// spend returns the bytes and objects that f allocates, and the bytes in use afterwards. All are 0 under the race
// detector, which allocates and empties pools at random.
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

var errPanicked = errors.New("panicked")

// unpanicked returns a panic of f as an error.
func unpanicked(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errPanicked, v)
		}
	}()
	return f()
}

var errEnough = errors.New("enough") // the cause of a context

// noContext is a nil context, which every call must refuse.
var noContext context.Context

// dialFails returns the error of Dial, which must be a *HandshakeError whose text is one line.
func dialFails(t *testing.T, ctx context.Context, url string, opts *Options) *HandshakeError {
	t.Helper()
	c, err := Dial(ctx, url, opts)
	if err == nil {
		c.CloseNow()
		t.Fatal("dialed")
	}
	var e *HandshakeError
	if c != nil || !errors.As(err, &e) || e.Reason == "" || err != error(e) {
		t.Fatalf("Dial returned %v, %#v", c, err)
	}
	if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("the error is not one line of text: %q", e.Error())
	}
	return e
}

// dialed dials, and closes the connection at the end of the test.
func dialed(t *testing.T, url string, opts *Options) *Conn {
	t.Helper()
	c, err := Dial(soon(t), url, opts)
	must(t, err)
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// dialError returns the error of Dial, nil or a *HandshakeError, and closes the connection.
func dialError(t *testing.T, url string, opts *Options) error {
	t.Helper()
	c, err := Dial(soon(t), url, opts)
	if err == nil {
		c.CloseNow()
	} else if e := new(HandshakeError); c != nil || !errors.As(err, &e) {
		t.Errorf("Dial returned %v, %#v", c, err)
	}
	return err
}

// checkInterruptedEcho checks that cancelled reads lose no message of an echo.
func checkInterruptedEcho(t *testing.T, c *Conn) {
	t.Helper()
	for _, s := range []string{"one", "two"} {
		short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		if _, _, err := c.Read(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		must(t, c.Write(soon(t), TextMessage, []byte(s)))
		if _, p, err := c.Read(soon(t)); err != nil || string(p) != s {
			t.Fatalf("got %q, %v", p, err)
		}
	}
}

// openFiles counts the descriptors of the process, on Linux.
func openFiles(t *testing.T) int {
	if runtime.GOOS != "linux" {
		return 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(files)
}

// awaitFiles waits, for at most 5 s, until no more descriptors are open than before.
func awaitFiles(t *testing.T, before int) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); openFiles(t) > before; runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("%d descriptors, %d before", openFiles(t), before)
		}
	}
}
