package storm

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"
)

// A reading is a way to read all that arrives at an end; it returns when the connection has ended. A reading that calls
// a function with each message, as OnMessage does, fits in here too: set the function, then wait for its last call.
type reading struct {
	name     string
	alone    bool // no other reading at the same end
	receives bool // takes data messages
	run      func(*actor, *tally)
}

var readings = []reading{
	{"steps", false, true, readSteps},
	{"messages", false, true, readMessages},
	{"stream", true, true, readStream},
	{"closeRead", true, false, readControl},
	{"none", true, false, func(*actor, *tally) {}},
}

// errEnded is the quiet end of a loop over Messages, or of a Stream.
var errEnded = errors.New("storm: the loop ended")

// A step reads at most a few messages.
type step struct {
	name string
	take func(*actor, context.Context, *tally) error
}

var steps = []step{
	{"Read", takeOne},
	{"Messages", takeFew},
	{"Reader", takeStream},
	{"ReadJSON", takeJSON},
}

// readSteps reads in all ways in turn.
func readSteps(a *actor, t *tally) {
	for {
		s := steps[a.rand.IntN(len(steps))]
		if s.name == "ReadJSON" && t.flow.kind != quoted {
			continue
		}
		ctx, cancel := a.context()
		err := a.do(s.name, 0, func() error { return s.take(a, ctx, t) })
		over := a.judge(s.name, ctx, err) == ended
		cancel()
		if over {
			return
		}
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

// noteLent notes a message that the connection has lent, and sees that it stays as it was.
func (t *tally) noteLent(a *actor, p []byte) {
	before := string(p)
	for range a.rand.IntN(3) {
		runtime.Gosched()
	}
	if string(p) != before {
		t.flow.fail("corrupt", "%s: a message changed while it was lent", a.name)
	}
	t.note(p, true)
}

// takeStream reads one message as a stream, or gives it up.
func takeStream(a *actor, ctx context.Context, t *tally) error {
	_, r, err := a.c.Reader(ctx)
	if err != nil {
		return err
	}
	p, most := []byte(nil), int(^uint(0)>>1)
	if a.rand.IntN(4) == 0 {
		most = headSize + 1 + a.rand.IntN(5000)
	}
	b := make([]byte, a.bufferSize())
	for err == nil && len(p) <= most {
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

// bufferSize returns one to read with: any, but not a tiny one for large messages.
func (a *actor) bufferSize() int { return a.pair.largest>>10 + 1 + a.rand.IntN(1<<a.rand.IntN(16)) }

func takeJSON(a *actor, ctx context.Context, t *tally) error {
	var s string
	err := a.c.ReadJSON(ctx, &s)
	if err == nil {
		t.note([]byte(`"`+s+`"`), true)
	}
	return err
}

// readMessages is the loop of most programs. An actor that has a ledger answers each message.
func readMessages(a *actor, t *tally) {
	for m, err := range a.c.Messages(a.c.Context()) {
		if err != nil {
			a.judge("Messages", a.c.Context(), err)
			return
		}
		t.noteLent(a, m.Data)
		if a.answers != nil {
			a.answer()
		}
	}
}

// answer sends a message, unless all wait or the round is over. Whoever sees that nothing is undecided then, knows that
// no answer will follow.
func (a *actor) answer() {
	a.answers.undecided.Add(1)
	defer a.answers.undecided.Add(-1)
	if a.pair.round.gate.isOpen() {
		a.writeOne(a.answers)
	}
}

// readStream reads a stream of bytes, in which each message begins where the one before it ended.
func readStream(a *actor, t *tally) {
	s := a.c.Stream(t.flow.kind.typ())
	var rest []byte
	b := make([]byte, a.bufferSize())
	for {
		s.SetReadDeadline(a.deadline())
		var n int
		err := a.do("Stream.Read", len(b), func() (err error) {
			n, err = s.Read(b)
			return streamError(err)
		})
		rest = t.cutMessages(append(rest, b[:n]...))
		if a.judge("Stream.Read", context.Background(), err) == ended {
			return
		}
	}
}

// cutMessages notes the whole messages at the beginning of p and returns the rest.
func (t *tally) cutMessages(p []byte) []byte {
	for {
		m, ok := identify(t.flow.kind, p)
		if !ok && len(p) > headSize {
			t.note(p, true) // corrupt
			return nil
		}
		n := m.size()
		if !ok || len(p) < n {
			return p
		}
		t.note(p[:n], true)
		p = p[n:]
	}
}

// deadline returns that of a call of a Stream.
func (a *actor) deadline() time.Time {
	if a.rand.Float64() >= a.haste || a.pair.round.gate.isQuiet() {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(a.rand.IntN(2000)-100) * time.Microsecond)
}

// readControl reads by CloseRead, again and again.
func readControl(a *actor, _ *tally) {
	for {
		ctx, cancel := a.context()
		done := a.c.CloseRead(ctx)
		err := a.do("CloseRead", 0, func() error {
			<-done.Done()
			if err := context.Cause(done); isEnd(err) || ctx.Err() == nil {
				return err
			}
			return errNothing
		})
		over := a.judge("CloseRead", ctx, err) == ended
		cancel()
		if over {
			return
		}
	}
}
