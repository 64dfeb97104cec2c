package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// Whole conversations over loopback, as programs have them. The tests of the protocol run over pipes.

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

// conversations are between two ends of any role.
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
	"WrongText":               {nil, refuseWrongText},
	"Limit":                   {&Options{MaxMessageSize: 1000}, refuseTooMuch},
	"CancelledReads":          {nil, cancelReads},
	"CancelledWrites":         {&Options{MaxPending: 1, MaxMessageSize: -1}, cancelWrites},
	"JSON":                    {nil, exchangeJSON},
	"Ping":                    {nil, pingOften},
	"KeepAliveOfSilentPeer":   {&Options{KeepAlive: 30 * time.Millisecond, CloseTimeout: 50 * time.Millisecond}, giveUpSilentPeer},
	"Close":                   {nil, closeAndTell},
	"CloseOfBoth":             {nil, closeBoth},
	"CloseBehindMessages":     {nil, closeBehindMessages},
	"CloseNow":                {&Options{MaxPending: 1}, closeNow},
	"CloseNowUnblocksWrites":  {&Options{MaxPending: 1}, closeNowOfWrites},
	"CloseRead":               {nil, closeRead},
	"PeerVanishes":            {nil, vanish},
	"Stream":                  {nil, exchangeStream},
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

// message returns n bytes of text, which are less regular in a binary message.
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

// exchange sends a message of every size in every way to write, and has it read in every way to read.
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
	if err := <-sent; err != nil {
		t.Error(err)
	}
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

// Text that is not UTF-8 is not sent; the connection stays usable.
func refuseWrongText(t *testing.T, from, to *Conn) {
	for _, name := range wholeWays {
		if err := waysToWrite[name](soon(t), from, TextMessage, []byte("caf\xe9 ")); err == nil {
			t.Errorf("%s took what is not UTF-8", name)
		}
	}
	from.Send(TextMessage, []byte("café"))
	wantRead(t, to, TextMessage, "café")
}

// The end that passed the limit gets a close frame with 1009.
func refuseTooMuch(t *testing.T, from, to *Conn) {
	from.Send(BinaryMessage, make([]byte, 1000))
	from.Send(BinaryMessage, make([]byte, 1001))
	wantRead(t, to, BinaryMessage, string(make([]byte, 1000)))
	told := background(func() error { return readOne(soon(t), from).err })
	err := readOne(soon(t), to).err
	wantFailure(t, "Read", err, StatusMessageTooBig)
	wantError(t, "Read", err, ErrMessageTooBig)
	var ce *CloseError
	if err := <-told; !errors.As(err, &ce) || ce.Code != StatusMessageTooBig {
		t.Errorf("the sender reads %v", err)
	}
}

// "Cancelling a read loses nothing", whatever the way of reading.
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

// "Cancelling a write that waits for its turn changes nothing"; Send does not wait for one.
func cancelWrites(t *testing.T, from, to *Conn) {
	big := make([]byte, 24<<20)
	sent := background(func() error { return from.Write(soon(t), BinaryMessage, big) })
	until(t, "a Write is under way", func() bool { return from.Stats().MessagesWritten > 0 })
	taken := 0
	for from.Send(BinaryMessage, []byte("yes")) == nil && taken < 10 {
		taken++
	}
	wantError(t, "Send", from.Send(BinaryMessage, []byte("no")), ErrBacklog)
	ctx, cancel := context.WithTimeout(soon(t), 5*time.Millisecond)
	defer cancel()
	wantError(t, "Write", from.Write(ctx, BinaryMessage, []byte("no")), context.DeadlineExceeded)
	behind := background(func() error { return from.Write(soon(t), BinaryMessage, []byte("behind")) })
	if _, p, err := to.Read(soon(t)); err != nil || len(p) != len(big) {
		t.Fatalf("%d bytes, %v", len(p), err)
	}
	for range taken {
		wantRead(t, to, BinaryMessage, "yes")
	}
	wantRead(t, to, BinaryMessage, "behind")
	if err := errors.Join(<-sent, <-behind); err != nil {
		t.Error(err)
	}
}

func exchangeJSON(t *testing.T, from, to *Conn) {
	type point struct{ X, Y int }
	from.Send(TextMessage, []byte("{"))
	if err := from.WriteJSON(soon(t), point{1, 2}); err != nil {
		t.Fatal(err)
	}
	var p point
	if err := to.ReadJSON(soon(t), &p); err == nil {
		t.Error("a { is not JSON")
	}
	if err := to.ReadJSON(soon(t), &p); err != nil || p != (point{1, 2}) {
		t.Errorf("%v, %v", p, err)
	}
}

func pingOften(t *testing.T, from, to *Conn) {
	reads(t, from)
	reads(t, to)
	for range 10 {
		d, err := from.Ping(soon(t))
		if err != nil || d <= 0 {
			t.Fatal(d, err)
		}
	}
	if from.Stats().RTT <= 0 {
		t.Errorf("%+v", from.Stats())
	}
}

// A peer that does not read answers no ping, and is given up.
func giveUpSilentPeer(t *testing.T, from, _ *Conn) {
	wantLost(t, "Read", <-reads(t, from))
	wantError(t, "the cause", context.Cause(from.Context()), StatusAbnormalClosure)
}

// The closing handshake, and the errors of either end after it.
func closeAndTell(t *testing.T, from, to *Conn) {
	ended := reads(t, to)
	if err := from.Close(4321, "that is äll"); err != nil {
		t.Errorf("Close: %v", err)
	}
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

// Both ends begin, and each takes the other's close frame as its answer.
func closeBoth(t *testing.T, from, to *Conn) {
	other := background(func() error { return from.Close(StatusNormalClosure, "") })
	if err := errors.Join(to.Close(StatusGoingAway, ""), <-other); err != nil {
		t.Error(err)
	}
}

// The close frame follows the messages sent before, also when the closing end has not read everything it was sent.
func closeBehindMessages(t *testing.T, from, to *Conn) {
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

// "After CloseNow everything that waits returns net.ErrClosed"; the peer loses the connection.
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

func closeNowOfWrites(t *testing.T, from, to *Conn) {
	var waits []<-chan error
	for range 3 {
		waits = append(waits, background(func() error { return from.Write(soon(t), BinaryMessage, make([]byte, 24<<20)) }))
	}
	until(t, "a Write is under way", func() bool { return from.Stats().MessagesWritten > 0 })
	waits = append(waits, background(func() error { return from.Close(1000, "") }))
	from.CloseNow()
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

// The connection beneath ends without a word.
func vanish(t *testing.T, from, to *Conn) {
	lost := reads(t, to)
	ping := background(func() error { return pingError(soon(t), to) })
	from.nc.Close()
	wantLost(t, "Read", <-lost)
	wantLost(t, "Ping", <-ping)
	wantError(t, "the cause", context.Cause(to.Context()), StatusAbnormalClosure)
	wantError(t, "Write", to.Write(soon(t), BinaryMessage, nil), StatusAbnormalClosure)
}

// "True deadlines, io.EOF on 1000 and 1001".
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

// A connection is not a request: ReadTimeout and WriteTimeout of the server do not end it.
func TestTransports_OutliveServerTimeouts(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			start := startTCP
			if tr.name == "TLS" || tr.name == "HTTP2" {
				start = startTLS
			}
			const short = 50 * time.Millisecond
			s := start(t, Handler(nil, echoMessages), func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = short, short, short
			})
			c, err := Dial(soon(t), s.URL, &Options{HTTPClient: s.Client(), HTTP2: strings.HasPrefix(strings.ToLower(tr.name), "h")})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			pass(4 * short)
			checkInterruptedEcho(t, c)
		})
	}
}

// Silence between pings that are answered ends neither end. The bubbles have more of it; this is for real sockets.
func TestTransports_KeepAlive(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			opts := &Options{KeepAlive: 500 * time.Millisecond}
			s, c := connectBy(t, tr, opts, opts)
			ended := reads(t, c)
			reads(t, s)
			until(t, "pings are answered", func() bool { return s.Stats().RTT > 0 && c.Stats().RTT > 0 })
			before := s.Stats().BytesRead
			until(t, "further pings", func() bool { return s.Stats().BytesRead > before })
			if err := s.Close(StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
			wantError(t, "Read", <-ended, StatusNormalClosure)
		})
	}
}

// Shutdown says 1001 to all, waits for them, and lets nobody in any more.
func TestTransports_Shutdown(t *testing.T) {
	for _, tr := range testTransports {
		t.Run(tr.name, func(t *testing.T) {
			var g Group
			var ended []<-chan error
			for range 4 {
				s, c := connectBy(t, tr, &Options{Group: &g}, nil)
				reads(t, s)
				ended = append(ended, reads(t, c))
			}
			wantTaken(t, &g, prepare(t, []byte("soon")), 4)
			if err := g.Shutdown(soon(t), StatusGoingAway, "restart"); err != nil || g.Len() != 0 {
				t.Errorf("%v, and %d are left", err, g.Len())
			}
			for _, err := range ended {
				wantError(t, "Read", <-err, StatusGoingAway)
			}
		})
	}
}
