package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A rawPeer is the other end of a Conn.
type rawPeer struct {
	t      *testing.T
	nc     net.Conn
	server bool // the role of the Conn, not of the peer
	wire   string
	in     *bufio.Reader
}

// send writes frames, given unmasked.
func (p *rawPeer) send(frames ...string) {
	p.t.Helper()
	p.sendBytes(towards(p.server, frames...))
}

// trySend is send for a Conn that may not take them, and for goroutines that may outlive the test.
func (p *rawPeer) trySend(frames ...string) { p.nc.Write(towards(p.server, frames...)) }

func (p *rawPeer) sendBytes(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("the peer's write: %v", err)
	}
}

// closeWrite ends the peer's half of the connection.
func (p *rawPeer) closeWrite() { p.nc.(interface{ CloseWrite() error }).CloseWrite() }

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

// readFrame reads a frame by section 5.2 and checks the rules for senders.
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
		return f, fmt.Errorf("length %d in %d bytes: not the least number of bytes, or the top bit", length, ext)
	case f.masked == fromServer:
		return f, fmt.Errorf("the mask bit is %t", f.masked)
	case f.first&0x70 != 0:
		return f, fmt.Errorf("reserved bits in %#x", f.first)
	case opcode > 0xa || opcode > 2 && opcode < 8:
		return f, fmt.Errorf("unknown opcode %#x", opcode)
	case opcode >= 8 && (f.first&0x80 == 0 || length > 125):
		return f, fmt.Errorf("control frame %#x of %d bytes: fragmented or too long", f.first, length)
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

// tryNext reads a frame. It waits for at most an hour.
func (p *rawPeer) tryNext() (wireFrame, error) {
	p.nc.SetReadDeadline(time.Now().Add(time.Hour))
	return readFrame(p.in, p.server)
}

func (p *rawPeer) next() wireFrame {
	p.t.Helper()
	f, err := p.tryNext()
	if err != nil {
		p.t.Fatalf("the peer reads a frame: %v", err)
	}
	return f
}

// message reads frames to the end of a message.
func (p *rawPeer) message() []byte {
	p.t.Helper()
	f := p.next()
	b := f.payload
	if f.first&0xf == 0 || f.first&0xf > 2 {
		p.t.Fatalf("%v begins a message", f)
	}
	for f.first < 0x80 {
		if f = p.next(); f.first&0xf != 0 {
			p.t.Fatalf("%v inside of a message", f)
		}
		b = append(b, f.payload...)
	}
	return b
}

// expect reads these frames, given unmasked.
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

// expectPing reads a ping.
func (p *rawPeer) expectPing() wireFrame {
	p.t.Helper()
	f := p.next()
	if f.first != 0x89 {
		p.t.Fatalf("the peer reads %v, want a ping", f)
	}
	return f
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
		p.t.Errorf("the reason %q is not UTF-8", f.payload[2:])
	}
}

// expectEnd checks that no more bytes come and the Conn closes the connection.
func (p *rawPeer) expectEnd() {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(time.Hour))
	if b, err := io.ReadAll(p.in); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("the peer reads %x and %v, want the end", b[:min(len(b), 64)], err)
	}
}

// expectCut is expectEnd after at most a part of a frame.
func (p *rawPeer) expectCut() {
	p.t.Helper()
	if f, err := p.tryNext(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("the peer reads %v, %v, want a part of a frame and the end", f, err)
	}
}

// quiet checks that the Conn has sent nothing.
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

// drain reads the frames that have arrived.
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

// A wrappedConn has the methods of net.Conn only, as the connections of netutil.LimitListener.
type wrappedConn struct{ net.Conn }

// A hookedConn replaces some methods of a connection by the test's own.
type hookedConn struct {
	net.Conn
	read, write func(p []byte) (int, error)
	close       func() error
}

func (c *hookedConn) Read(p []byte) (int, error) {
	if c.read != nil {
		return c.read(p)
	}
	return c.Conn.Read(p)
}

func (c *hookedConn) Write(p []byte) (int, error) {
	if c.write != nil {
		return c.write(p)
	}
	return c.Conn.Write(p)
}

func (c *hookedConn) Close() error {
	if c.close != nil {
		return c.close()
	}
	return c.Conn.Close()
}

// A layeredConn is a layer over another connection. It counts its Closes.
type layeredConn struct {
	net.Conn
	closes atomic.Int32
}

func (c *layeredConn) NetConn() net.Conn { return c.Conn }

func (c *layeredConn) Close() error {
	c.closes.Add(1)
	return c.Conn.Close()
}

// A closeRecorder records that it was closed.
type closeRecorder struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func newCloseRecorder(nc net.Conn) *closeRecorder {
	return &closeRecorder{Conn: nc, closed: make(chan struct{})}
}

func (c *closeRecorder) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A goodbyeConn writes a farewell before it closes, as TLS does. The write blocks until the connection below it is
// closed.
type goodbyeConn struct{ *closeRecorder }

func (c goodbyeConn) NetConn() net.Conn { return c.closeRecorder }

func (c goodbyeConn) Close() error {
	<-c.closed
	return nil
}

// An unwrappingConn has an Unwrap method, as the connections of some listeners do.
type unwrappingConn struct{ net.Conn }

func (c unwrappingConn) Unwrap() net.Conn { return c.Conn }

// A foreignTimeout is a timeout of yamux or of gVisor: a net.Error that does not match os.ErrDeadlineExceeded.
type foreignTimeout struct{}

func (foreignTimeout) Error() string   { return "i/o timeout" }
func (foreignTimeout) Timeout() bool   { return true }
func (foreignTimeout) Temporary() bool { return true }

// A foreignConn returns a foreignTimeout when a deadline passes.
type foreignConn struct{ net.Conn }

func (c foreignConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, asForeign(err)
}

func (c foreignConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, asForeign(err)
}

func asForeign(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return foreignTimeout{}
	}
	return err
}

// A channelConn supports no deadlines, like a channel of SSH.
type channelConn struct{ net.Conn }

var errNoDeadlines = errors.New("deadlines are not supported")

func (channelConn) SetDeadline(time.Time) error      { return errNoDeadlines }
func (channelConn) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (channelConn) SetWriteDeadline(time.Time) error { return errNoDeadlines }

// spins is the number of calls by which a test recognizes a busy loop.
const spins = 1000

// A renewingConn writes while it reads, as TLS 1.3 does to answer a KeyUpdate. It fails if its write deadline has
// passed.
type renewingConn struct {
	net.Conn
	mu    sync.Mutex
	limit time.Time
}

func (c *renewingConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	return c.Conn.SetWriteDeadline(t)
}

func (c *renewingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && !c.limit.IsZero() && !c.limit.After(time.Now()) {
		return 0, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	}
	return n, err
}

// A faultyConn fails in ways that the test chooses.
type faultyConn struct {
	net.Conn
	most   int          // bytes of a Read; 0: any number
	empty  int          // each Read is preceded by so many of (0, nil)
	short  int          // bytes that a Write takes, which then says nothing of the rest; 0: all
	budget atomic.Int64 // bytes either way before errFault
	seen   int
	writes atomic.Int32
}

var errFault = errors.New("a fault")

func newFaultyConn(nc net.Conn) *faultyConn {
	f := &faultyConn{Conn: nc}
	f.budget.Store(math.MaxInt64)
	return f
}

func (f *faultyConn) Read(p []byte) (int, error) {
	if f.seen++; f.empty > 0 && f.seen%(f.empty+1) != 0 {
		return 0, nil
	}
	if f.most > 0 {
		p = p[:min(len(p), f.most)]
	}
	left := f.budget.Load()
	if left <= 0 {
		return 0, errFault
	}
	n, err := f.Conn.Read(p[:min(int64(len(p)), left)])
	f.budget.Add(int64(-n))
	return n, err
}

func (f *faultyConn) Write(p []byte) (int, error) {
	f.writes.Add(1)
	left := min(int64(len(p)), max(0, f.budget.Load()))
	if f.short > 0 {
		n, _ := f.Conn.Write(p[:min(len(p), f.short)])
		return n, nil
	}
	n, err := f.Conn.Write(p[:left])
	f.budget.Add(int64(-n))
	if err == nil && n < len(p) {
		err = errFault
	}
	return n, err
}

// A softConn stays usable after a deadline, and counts its writes.
type softConn struct {
	net.Conn
	writes int
}

func (c *softConn) softDeadlines() {}

func (c *softConn) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// A scriptConn returns the pieces of a stream and then io.EOF.
type scriptConn struct {
	nullConn
	mu     sync.Mutex
	pieces [][]byte
	out    bytes.Buffer
	closed bool
	done   chan struct{} // if not nil, closed with the connection
}

func (s *scriptConn) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *scriptConn) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	return s.out.Write(p)
}

func (s *scriptConn) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.done != nil {
		close(s.done)
	}
	s.closed = true
	return nil
}

// written waits until the connection is closed, and returns the bytes written to it.
func (s *scriptConn) written(t *testing.T) []byte {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(2 * testCloseTimeout):
		t.Error("the connection was not let go")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.out.Bytes())
}

func (s *scriptConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (s *scriptConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// A spoutConn returns the same bytes many times and then io.EOF.
type spoutConn struct {
	scriptConn
	first []byte
	again []byte
	times int64
	at    int
	last  []byte
	step  int         // bytes of each Read; 0: any number
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
	if s.step > 0 {
		p = p[:min(len(p), s.step)]
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

// A nullConn discards all bytes written to it.
type nullConn struct{ net.Conn }

func (nullConn) Write(p []byte) (int, error)      { return len(p), nil }
func (nullConn) SetDeadline(time.Time) error      { return nil }
func (nullConn) SetReadDeadline(time.Time) error  { return nil }
func (nullConn) SetWriteDeadline(time.Time) error { return nil }
func (nullConn) Close() error                     { return nil }

// An endless returns the same frame forever and discards all bytes written to it.
type endless struct {
	nullConn
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(p[n:], e.frame[e.at:])
		n += m
		e.at = (e.at + m) % len(e.frame)
	}
	return n, nil
}

func (e *endless) tryWrite(p []byte) (int, error) { return len(p), nil }

// A pipeListener accepts the other ends of the pipes that it dials.
type pipeListener struct {
	conns  chan net.Conn
	close  sync.Once
	closed chan struct{}
}

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	near, far := memPipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return streamAddr("pipe") }

// An askedContext ends at the first call of Err after arm. After many more calls it is alive again, which ends a busy
// loop.
type askedContext struct {
	context.Context
	done  chan struct{}
	mu    sync.Mutex // guards the fields below
	armed bool
	asked int
	funcs []func()
}

func newAskedContext(t *testing.T) *askedContext {
	return &askedContext{Context: patience(t), done: make(chan struct{})}
}

func (c *askedContext) Done() <-chan struct{} { return c.done }

// AfterFunc implements the method that context.AfterFunc looks for: f runs before Err first returns an error.
func (c *askedContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.funcs = append(c.funcs, f)
	return func() bool { return true }
}

func (c *askedContext) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = true
}

func (c *askedContext) Err() error {
	c.mu.Lock()
	if c.armed {
		c.asked++
	}
	asked, funcs := c.asked, c.funcs
	c.mu.Unlock()
	if asked == 0 || asked > spins {
		return nil
	}
	if asked == 1 {
		close(c.done)
		for _, f := range funcs {
			f()
		}
	}
	return context.Canceled
}

// spun reports whether a loop called Err again and again.
func (c *askedContext) spun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked > spins
}

// An oddContext has an error that cannot be compared.
type oddContext struct {
	context.Context
	done chan struct{}
}

type oddError []string

func (oddError) Error() string { return "odd" }

func (c oddContext) Done() <-chan struct{} { return c.done }

func (c oddContext) Err() error {
	select {
	case <-c.done:
		return oddError{"x"}
	default:
		return nil
	}
}

// listen serves each TCP connection with the function until the test ends.
func listen(t testing.TB, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(10 * time.Second))
				serve(nc)
			})
		}
	})
	return l.Addr()
}

// answerWith reads a request, which it returns, and answers it. {accept} in the response is replaced by the accept key.
func answerWith(nc net.Conn, response string) (request string) {
	var b bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(nc, &b)))
	if err != nil {
		return b.String()
	}
	accept := string(appendAcceptKey(nil, req.Header.Get("Sec-WebSocket-Key")))
	io.WriteString(nc, strings.ReplaceAll(response, "{accept}", accept))
	return b.String()
}

const goodResponse = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"

// pipedTo returns a client whose connections are pipes to serve.
func pipedTo(serve func(net.Conn)) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			serve(far)
		}()
		return near, nil
	}}}
}

// answering returns a client whose requests get this response. The server then closes the connection or waits for the
// client to do so.
func answering(response string, closes bool) *http.Client {
	return pipedTo(func(nc net.Conn) {
		answerWith(nc, response)
		if !closes {
			io.Copy(io.Discard, nc)
		}
	})
}

// noDial is a client that must not dial.
func noDial(t *testing.T) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%s was dialed", addr)
		return nil, errors.New("not to be dialed")
	}}}
}

// A roundTripper is a function that implements http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// failing is a client whose requests fail with err.
func failing(err error) *http.Client {
	return &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })}
}

// hiding hides all methods of the body of a 101 except Read, Write and Close.
func hiding(rt http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := rt.RoundTrip(r)
		if err == nil {
			resp.Body = struct{ io.ReadWriteCloser }{resp.Body.(io.ReadWriteCloser)}
		}
		return resp, err
	})
}

// follow is a CheckRedirect that follows every redirect.
func follow(*http.Request, []*http.Request) error { return nil }

// A logBuffer is the output of a log. A test may read it while it is written.
type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed by the next Write; nil if nobody waits
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log contains text and returns the log. It gives up after ten seconds.
func (l *logBuffer) await(text string) string {
	for limit := time.After(10 * time.Second); ; {
		l.mu.Lock()
		got := l.b.String()
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		if strings.Contains(got, text) {
			return got
		}
		select {
		case <-changed:
		case <-limit:
			return got
		}
	}
}

// standardLog returns what package log writes until the test ends.
func standardLog(t *testing.T) *logBuffer {
	b := new(logBuffer)
	log.SetOutput(b)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	return b
}
