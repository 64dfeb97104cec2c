package storm

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"example.com/websocket"
)

// A reading is a way to read everything that arrives at an end. Its run returns when the connection has ended.
type reading struct {
	name     string
	readers  int  // how many may read this way at the same time
	receives bool // takes data messages
	run      func(*actor, *tally)
}

var readings = []reading{
	{"steps", 3, true, readSteps},
	{"messages", 2, true, readMessages},
	{"stream", 1, true, readStream},
	{"onMessage", 1, true, readDelivered},
	{"closeRead", 1, false, readControl},
	{"none", 1, false, func(*actor, *tally) {}},
}

// steps are the ways to read one message, or a few.
var steps = []struct {
	name string
	take func(*actor, context.Context, *tally) error
}{
	{"Read", takeOne},
	{"Messages", takeFew},
	{"Reader", takeStream},
	{"ReadJSON", takeJSON},
}

func readSteps(a *actor, t *tally) {
	for over := false; !over; {
		s := steps[a.rand.IntN(len(steps))]
		ctx, cancel := a.context()
		err := a.do(s.name, 0, func() error { return s.take(a, ctx, t) })
		over = a.judge(s.name, ctx, err) == ended
		cancel()
	}
}

func takeOne(a *actor, ctx context.Context, t *tally) error {
	_, p, err := a.c.Read(ctx)
	if err == nil {
		t.note(p, true)
	}
	return err
}

func takeFew(a *actor, ctx context.Context, t *tally) error {
	most := a.rand.IntN(10)
	for m, err := range a.c.Messages(ctx) {
		if err != nil {
			return err
		}
		t.noteLent(a, m.Data)
		if most--; most < 0 {
			return nil
		}
	}
	return errEnded
}

// noteLent records a message that the connection has lent, and checks that its bytes do not change.
func (t *tally) noteLent(a *actor, p []byte) {
	before := string(p)
	for range a.rand.IntN(3) {
		runtime.Gosched()
	}
	if string(p) != before {
		a.fail("corrupt", "a message changed while it was lent")
	}
	t.note(p, true)
}

// takeStream reads one message as a stream, or gives it up.
func takeStream(a *actor, ctx context.Context, t *tally) error {
	_, r, err := a.c.Reader(ctx)
	if err != nil {
		return err
	}
	var p []byte
	most := headSize + 1 + a.rand.IntN(8*maxSize)>>a.rand.IntN(16)
	for b := make([]byte, a.bufferSize()); err == nil && len(p) <= most; {
		var n int
		n, err = r.Read(b)
		p = append(p, b[:n]...)
	}
	t.note(p, err == io.EOF)
	if err == io.EOF || len(t.flow.tallies) > 1 && !isEnd(err) && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
		return nil // or another reader has skipped the rest
	}
	return err
}

// bufferSize returns a random size for a read, but not a tiny one for large messages.
func (a *actor) bufferSize() int { return a.pair.Largest>>10 + 1 + a.rand.IntN(1<<a.rand.IntN(16)) }

func takeJSON(a *actor, ctx context.Context, t *tally) error {
	if t.flow.from.Sends != websocket.TextMessage {
		return takeOne(a, ctx, t)
	}
	var s string
	err := a.c.ReadJSON(ctx, &s)
	if err == nil {
		t.note([]byte(`"`+s+`"`), true)
	}
	return err
}

// readMessages is the loop of most programs. An actor with a ledger answers each message.
func readMessages(a *actor, t *tally) {
	for m, err := range a.c.Messages(a.over) {
		if err != nil {
			a.judge("Messages", a.over, err)
			return
		}
		t.noteLent(a, m.Data)
		if a.ledger != nil {
			a.answer()
		}
	}
}

// answer sends a message, unless all actors pause or the round is over. The message counts as undecided before answer
// checks, so that no answer is sent that was not counted when the round ended.
func (a *actor) answer() {
	a.ledger.counts[undecided].Add(1)
	defer a.ledger.counts[undecided].Add(-1)
	if rd := a.pair.round; rd.quiet.Load() == nil && !rd.over.Load() {
		a.writeOne()
	}
}

// readDelivered receives messages through OnMessage, and occasionally reads some in another way.
func readDelivered(a *actor, t *tally) {
	for over := false; !over; {
		done := make(chan error, 1)
		deliver := func(m websocket.Message, err error) {
			if err != nil {
				done <- err
				return
			}
			before := string(m.Data)
			t.noteLent(a, m.Data)
			switch a.rand.IntN(30) {
			case 0:
				time.Sleep(time.Duration(a.rand.IntN(2000)) * time.Microsecond)
			case 1:
				if err := takeOne(a, a.over, t); err == nil && string(m.Data) != before {
					a.fail("corrupt", "a message changed while the next was read")
				}
			case 2:
				a.c.OnMessage(nil)
				done <- nil
			}
		}
		err := a.do("OnMessage", 0, func() error {
			a.c.OnMessage(deliver)
			return <-done
		})
		if over = a.judge("OnMessage", a.over, err) == ended; !over {
			err := a.do("Read", 0, func() error { return takeOne(a, a.over, t) })
			over = a.judge("Read", a.over, err) == ended
		}
	}
}

// readStream reads a stream of bytes, in which each message begins where the one before it ended.
func readStream(a *actor, t *tally) {
	s := a.c.Stream(t.flow.from.Sends)
	b := make([]byte, a.bufferSize())
	var p []byte
	for over := false; !over; {
		s.SetReadDeadline(a.deadline())
		err := a.do("Stream.Read", len(b), func() error {
			n, err := s.Read(b)
			p = append(p, b[:n]...)
			return streamError(err)
		})
		over = a.judge("Stream.Read", context.Background(), err) == ended
		for m, ok := identify(t.flow.from.Sends, p); ok && len(p) >= m.size() || !ok && len(p) > headSize; m, ok = identify(t.flow.from.Sends, p) {
			n := m.size()
			if !ok {
				n = len(p) // not one of our messages
			}
			t.note(p[:n], true)
			p = p[n:]
		}
	}
}

// readControl calls CloseRead repeatedly.
func readControl(a *actor, _ *tally) {
	for over := false; !over; {
		ctx, cancel := a.context()
		err := a.do("CloseRead", 0, func() error {
			reading := a.c.CloseRead(ctx)
			<-reading.Done()
			if err := context.Cause(reading); isEnd(err) || ctx.Err() == nil {
				return err
			}
			return nil
		})
		over = a.judge("CloseRead", ctx, err) == ended
		cancel()
	}
}
