package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Whole conversations over real connections, one table for all transports. The tests of the protocol use pipes.

// connectBy returns the two ends of a connection.
func connectBy(t *testing.T, tr testTransport, server, client *Options) (s, c *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	c = tr.dial(t, server, client, func(c *Conn, _ *http.Request) {
		accepted <- c
		<-c.Context().Done()
	})
	s = <-accepted
	t.Cleanup(func() { s.CloseNow() })
	return s, c
}

// conversations are between two ends of either role.
var conversations = map[string]struct {
	opts *Options
	f    func(t *testing.T, from, to *Conn)
}{
	"Messages": {nil, func(t *testing.T, from, to *Conn) {
		exchange(t, from, to, 0, 1, 125, 126, 4096, 16<<10, 16<<10+1, 65535, 65536, 65537)
	}},
	"LargeMessages":           {nil, exchangeLarge},
	"Compression":             {&Options{Compression: &Compression{}}, exchangeCompressed},
	"CompressionWithTakeover": {&Options{Compression: &Compression{ContextTakeover: true}}, exchangeCompressed},
	"CancelledReads":          {nil, cancelReads},
	"CancelledWrites":         {&Options{MaxPending: 1, MaxMessageSize: -1}, cancelWrites},
	"KeepAliveOfSilentPeer":   {&Options{KeepAlive: 30 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}, giveUpSilentPeer},
	"Close":                   {nil, closeAndTell},
	"CloseOfBoth":             {nil, closeBoth},
	"CloseAfterMessages":      {nil, closeAfterMessages},
	"CloseNow":                {&Options{MaxPending: 1}, closeNow},
	"CloseNowUnblocksAll": {&Options{MaxPending: 1}, func(t *testing.T, from, _ *Conn) {
		unblockAll(t, from, func() {
			closed := background(func() error { return from.Close(StatusNormalClosure, "") })
			from.CloseNow()
			wantError(t, "Close", <-closed, net.ErrClosed)
		})
	}},
	"CloseUnblocksAll": {&Options{MaxPending: 1, CloseTimeout: 50 * time.Millisecond}, func(t *testing.T, from, _ *Conn) {
		unblockAll(t, from, func() { wantError(t, "Close", from.Close(StatusNormalClosure, ""), os.ErrDeadlineExceeded) })
	}},
	"CloseRead":    {nil, closeRead},
	"PeerVanishes": {nil, vanish},
	"Stream":       {nil, exchangeStream},
}

func TestTransports(t *testing.T) {
	for name, conversation := range conversations {
		for _, tr := range testTransports {
			t.Run(name+"/"+tr.name, func(t *testing.T) {
				for from, swap := range map[string]bool{"FromServer": false, "FromClient": true} {
					t.Run(from, func(t *testing.T) {
						s, c := connectBy(t, tr, conversation.opts, conversation.opts)
						if swap {
							s, c = c, s
						}
						conversation.f(t, s, c)
					})
				}
			})
		}
	}
}

// message returns n bytes: text, or text and random bytes for a binary message.
func message(typ MessageType, n int) []byte {
	p := []byte(strings.Repeat("h€llo, wörld; ", n/17+1)[:n])
	if typ == TextMessage {
		return bytes.ToValidUTF8(p, []byte("."))
	}
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range p[:n/2] {
		p[i] = byte(r.Uint32())
	}
	return p
}

// exchange sends messages of all sizes in every way to write, and reads them in every way to read.
func exchange(t *testing.T, from, to *Conn, sizes ...int) {
	t.Helper()
	ctx := soon(t)
	for write, send := range waysToWrite {
		for read, receive := range waysToRead {
			for i, n := range sizes {
				typ := MessageType(i%2 + 1)
				p := message(typ, n)
				sent := background(func() error { return send(ctx, from, typ, p) })
				got, q, err := receive(ctx, to)
				if err != nil || got != typ || !bytes.Equal(q, p) {
					t.Fatalf("%s of %d bytes, %s: type %d, %d bytes, %v", write, len(p), read, got, len(q), err)
				}
				if err := <-sent; err != nil {
					t.Fatalf("%s of %d bytes: %v", write, len(p), err)
				}
			}
		}
	}
}

func exchangeLarge(t *testing.T, from, to *Conn) {
	ctx := soon(t)
	p := message(BinaryMessage, 1<<20)
	sent := background(func() (err error) {
		for _, send := range waysToWrite {
			err = errors.Join(err, send(ctx, from, BinaryMessage, p))
		}
		return err
	})
	for range waysToWrite {
		wantRead(t, to, BinaryMessage, string(p))
	}
	wantOK(t, "Write", <-sent)
}

func exchangeCompressed(t *testing.T, from, to *Conn) {
	exchange(t, from, to, 0, 1, 127, 128, 4096, 65537)
	sent, received := from.Stats(), to.Stats()
	if sent.BytesWritten > sent.PayloadWritten*3/4 {
		t.Errorf("nothing is compressed: %+v", sent)
	}
	if sent.PayloadWritten != received.PayloadRead || sent.MessagesWritten != received.MessagesRead {
		t.Errorf("written %+v, read %+v", sent, received)
	}
}

// Cancelled reads lose nothing, however a message is read.
func cancelReads(t *testing.T, from, to *Conn) {
	const messages = 150
	go func() {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range messages {
			from.Write(t.Context(), BinaryMessage, fmt.Appendf(nil, "%d %s", i, make([]byte, r.IntN(20<<10))))
		}
	}()
	r := rand.New(rand.NewPCG(3, 4))
	for i := 0; i < messages; {
		ctx, cancel := context.WithTimeout(soon(t), time.Duration(r.IntN(300))*time.Microsecond)
		receive := waysToRead[[]string{"Read", "Messages"}[r.IntN(2)]]
		if r.IntN(4) == 0 { // a Reader belongs to its ctx
			receive, ctx = waysToRead["Reader"], soon(t)
		}
		_, p, err := receive(ctx, to)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if err != nil || !bytes.HasPrefix(p, fmt.Appendf(nil, "%d ", i)) {
			t.Fatalf("message %d: %.20q, %v", i, p, err)
		}
		i++
	}
}

// A Write that is cancelled while it waits for its turn sends nothing. Send does not wait.
func cancelWrites(t *testing.T, from, to *Conn) {
	big := make([]byte, 24<<20)
	sent := background(func() error { return from.Write(soon(t), BinaryMessage, big) })
	until(t, "a Write has begun", func() bool { return from.Stats().MessagesWritten > 0 })
	taken := 0
	for from.Send(BinaryMessage, []byte("yes")) == nil && taken < 10 {
		taken++
	}
	wantError(t, "Send", from.Send(BinaryMessage, []byte("no")), ErrBacklog)
	ctx, cancel := context.WithTimeout(soon(t), 5*time.Millisecond)
	defer cancel()
	wantError(t, "Write", from.Write(ctx, BinaryMessage, []byte("no")), context.DeadlineExceeded)
	after := background(func() error { return from.Write(soon(t), BinaryMessage, []byte("after")) })
	if _, p, err := to.Read(soon(t)); err != nil || len(p) != len(big) {
		t.Fatalf("%d bytes, %v", len(p), err)
	}
	for range taken {
		wantRead(t, to, BinaryMessage, "yes")
	}
	wantRead(t, to, BinaryMessage, "after")
	wantOK(t, "the calls", errors.Join(<-sent, <-after))
}

// KeepAlive ends a connection whose peer does not read and so answers no ping.
func giveUpSilentPeer(t *testing.T, from, _ *Conn) {
	wantLost(t, "Read", <-reads(t, from))
	wantError(t, "the cause", context.Cause(from.Context()), StatusAbnormalClosure)
}

// The errors at both ends after the closing handshake.
func closeAndTell(t *testing.T, from, to *Conn) {
	ended := reads(t, to)
	wantOK(t, "Close", from.Close(4321, "that is äll"))
	for what, err := range map[string]error{"Read": <-ended, "the cause": context.Cause(to.Context()), "Ping": pingError(soon(t), to)} {
		wantClosed(t, what+" of the end that was told", err, 4321, "that is äll")
	}
	for what, err := range map[string]error{"Read": readOne(soon(t), from).err, "the cause": context.Cause(from.Context()),
		"Ping": pingError(soon(t), from), "Send": from.Send(BinaryMessage, nil), "Close": from.Close(1000, "")} {
		wantError(t, what+" of the end that closed", err, net.ErrClosed)
	}
	if err := to.Close(1000, ""); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close of the end that was told: %v", err)
	}
}

// Both ends call Close. Each takes the other's close frame as the answer.
func closeBoth(t *testing.T, from, to *Conn) {
	other := background(func() error { return from.Close(StatusNormalClosure, "") })
	wantOK(t, "the calls", errors.Join(to.Close(StatusGoingAway, ""), <-other))
}

// The close frame follows the messages sent before it, even if the closing end has not read everything.
func closeAfterMessages(t *testing.T, from, to *Conn) {
	to.Send(BinaryMessage, make([]byte, 100<<10)) // nobody reads it
	for i := range 50 {
		from.Send(TextMessage, fmt.Append(nil, i))
	}
	closed := background(func() error { return from.Close(StatusNormalClosure, "") })
	i := 0
	for m, err := range to.Messages(soon(t)) {
		if err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %q, %v", i, m.Data, err)
		}
		i++
	}
	if err := <-closed; err != nil || i != 50 {
		t.Errorf("%d messages, and Close returned %v", i, err)
	}
}

// After CloseNow every call that waits returns net.ErrClosed, and the peer loses the connection.
func closeNow(t *testing.T, from, to *Conn) {
	waits := map[string]<-chan error{"Read": reads(t, from), "Ping": background(func() error { return pingError(soon(t), from) })}
	from.CloseNow()
	lost := reads(t, to) // not before: nobody answers the ping
	for what, err := range waits {
		wantError(t, what, <-err, net.ErrClosed)
	}
	wantError(t, "the cause", context.Cause(from.Context()), net.ErrClosed)
	wantLost(t, "Read", <-lost)
}

// Everything that waits ends with the connection, though the peer reads nothing.
func unblockAll(t *testing.T, from *Conn, end func()) {
	var waits []<-chan error
	for range 3 {
		waits = append(waits, background(func() error { return from.Write(soon(t), BinaryMessage, make([]byte, 24<<20)) }))
	}
	until(t, "a Write has begun", func() bool { return from.Stats().MessagesWritten > 0 })
	waits = append(waits, reads(t, from), background(func() error { return pingError(soon(t), from) }))
	end()
	for _, err := range waits {
		wantError(t, "what waited", <-err, net.ErrClosed)
	}
}

func closeRead(t *testing.T, from, to *Conn) {
	ended := reads(t, from)
	ctx := to.CloseRead(t.Context())
	if _, err := from.Ping(soon(t)); err != nil {
		t.Errorf("in CloseRead a ping is answered: %v", err)
	}
	from.Send(BinaryMessage, []byte("data"))
	<-ctx.Done()
	wantError(t, "the end of CloseRead", context.Cause(to.Context()), StatusPolicyViolation)
	wantError(t, "the sender's Read", <-ended, StatusPolicyViolation)
}

// The TCP connection or the stream ends without a close frame.
func vanish(t *testing.T, from, to *Conn) {
	lost := reads(t, to)
	ping := background(func() error { return pingError(soon(t), to) })
	from.nc.Close()
	wantLost(t, "Read", <-lost)
	wantLost(t, "Ping", <-ping)
	wantError(t, "the cause", context.Cause(to.Context()), StatusAbnormalClosure)
	wantError(t, "Write", to.Write(soon(t), BinaryMessage, nil), StatusAbnormalClosure)
}

// A Stream has deadlines that can be moved, and ends with io.EOF after a normal closure.
func exchangeStream(t *testing.T, from, to *Conn) {
	w, r := from.Stream(BinaryMessage), to.Stream(BinaryMessage)
	r.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
	_, err := r.Read(make([]byte, 3))
	wantError(t, "Read", err, os.ErrDeadlineExceeded)
	late := background(func() error { _, err := r.Read(make([]byte, 1)); return err })
	r.SetReadDeadline(time.Now().Add(-time.Second))
	wantError(t, "a Read whose deadline was moved", <-late, os.ErrDeadlineExceeded)
	r.SetReadDeadline(time.Time{})
	go func() {
		w.Write([]byte("hello, "))
		w.Write([]byte("world"))
		w.Close()
	}()
	if p, err := io.ReadAll(r); err != nil || string(p) != "hello, world" {
		t.Errorf("%q, %v", p, err)
	}
}

// A connection is not a request: ReadTimeout, WriteTimeout and IdleTimeout of the http.Server do not end it.
func TestTransports_OutliveServerTimeouts(t *testing.T) {
	certified()
	for _, tr := range testTransports {
		inBubbleIn(t, tr.name, func(t *testing.T) {
			secure := tr.name == "TLS" || tr.name == "HTTP2"
			s := serveHTTP2(t, secure, Handler(nil, echoMessages), func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = time.Second, time.Second, time.Second
				s.Protocols.SetHTTP1(true)
			})
			c := dialed(t, s.url, &Options{HTTPClient: s.client, HTTP2: tr.http2})
			pass(10 * time.Second)
			checkInterruptedEcho(t, c)
		})
	}
}

// net/http serves extended CONNECT only if the process started with this setting in GODEBUG.
const extendedConnect = "http2xconnect=1"

// TestMain runs the tests in another process if this one does not have extendedConnect.
func TestMain(m *testing.M) {
	debug := os.Getenv("GODEBUG")
	if strings.Contains(debug, extendedConnect) || runtime.GOOS == "js" { // which starts no process
		os.Exit(m.Run())
	}
	if debug != "" {
		debug += ","
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	debug += extendedConnect + ",adaptivestackstart=0" // stacks are measured, so all of them start small
	cmd.Env = append(os.Environ(), "GODEBUG="+debug)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	}
	os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(2)
}

// A testTransport is a way to connect a client to a server over loopback.
type testTransport struct {
	name  string
	start startFunc
	http2 bool
}

// testTransports are the transports that whole conversations are tested over.
var testTransports = []testTransport{{"TCP", startTCP, false}, {"TLS", startTLS, false}, {"HTTP2", startTLS, true}, {"h2c", startTCP, true}}

// A startFunc starts a server that ends with the test. The last functions change its settings.
type startFunc = func(*testing.T, http.Handler, ...func(*http.Server)) *httptest.Server

// startTCP serves HTTP/1.1 and, with prior knowledge, HTTP/2.
func startTCP(t *testing.T, h http.Handler, set ...func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range set {
		f(s.Config)
	}
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// startTLS serves HTTP/1.1 and HTTP/2 over TLS.
func startTLS(t *testing.T, h http.Handler, set ...func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	for _, f := range set {
		f(s.Config)
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// loggingTo has a server log to w.
func loggingTo(w io.Writer) func(*http.Server) {
	return func(s *http.Server) { s.ErrorLog = log.New(w, "", 0) }
}

// dial connects to a server that runs serve. Both end with the test.
func (tr testTransport) dial(t *testing.T, server, client *Options, serve func(*Conn, *http.Request), set ...func(*http.Server)) *Conn {
	t.Helper()
	s := tr.start(t, Handler(server, serve), set...)
	var o Options
	if client != nil {
		o = *client
	}
	o.HTTPClient, o.HTTP2 = s.Client(), tr.http2
	return dialed(t, s.URL, &o)
}
