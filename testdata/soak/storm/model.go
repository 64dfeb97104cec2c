package storm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"example.com/websocket"
)

// The model of a connection is two flows, one for each direction. A flow records every message that was offered to it
// and every message that came out of it; check compares the two once the connection is over. While the connection
// lives, each ledger and each tally belongs to one goroutine. A lock here would order the calls of the actors, and so
// hide the package's data races from the race detector.

const (
	maxSize  = 1 << 18 // bytes of a filling
	headSize = 20      // "123 123456 12345678 "
	unit     = 4       // fillings begin and end at multiples of it, which are never inside a character
	offsets  = 1 << 12 // where a filling may begin, in units
)

// fillings hold the payload of all messages: each message contains a part of one filling. The binary one alternates
// between bytes that can be compressed and bytes that cannot.
var fillings = [...]string{
	websocket.TextMessage: repeat(func(r *rand.Rand) string {
		return one(r, "abcd", "line", " of ", "the ", "1234", "🙂", "文x", "éü", "x€")
	}),
	websocket.BinaryMessage: repeat(func(r *rand.Rand) string {
		p := make([]byte, 4<<10)
		for i := range p[:len(p)/2] {
			p[i] = byte(r.Uint32())
		}
		return string(p)
	}),
}

func repeat(more func(*rand.Rand) string) string {
	var b strings.Builder
	for r := rand.New(rand.NewPCG(1, 1)); b.Len() < maxSize+offsets*unit; {
		b.WriteString(more(r))
	}
	return b.String()
}

// A message is identified by its sender, its number and the length of its filling, all of which its first bytes
// contain.
type message struct {
	typ                 websocket.MessageType // one of text is a JSON string
	sender, seq, length int
}

func (m message) quote() string {
	return [...]string{websocket.TextMessage: `"`, websocket.BinaryMessage: ""}[m.typ]
}
func (m message) size() int { return headSize + m.length + 2*len(m.quote()) }

// body returns a fresh copy of the message.
func (m message) body() []byte {
	at := (m.sender*4093 + m.seq*509) % offsets * unit
	return fmt.Appendf(make([]byte, 0, m.size()), "%s%03d %06d %08d %s%s", m.quote(), m.sender, m.seq, m.length, fillings[m.typ][at:at+m.length], m.quote())
}

// identify returns the message that p begins with. It returns false if p is too short to tell, or is not one of our
// messages.
func identify(typ websocket.MessageType, p []byte) (m message, ok bool) {
	m.typ = typ
	if p = bytes.TrimPrefix(p, []byte(m.quote())); len(p) < headSize {
		return m, false
	}
	n, _ := fmt.Sscanf(string(p[:headSize]), "%03d %06d %08d ", &m.sender, &m.seq, &m.length)
	return m, n == 3 && min(m.sender, m.seq, m.length) >= 0 && m.length <= maxSize && m.length%unit == 0
}

// A flow is one direction of a connection.
type flow struct {
	from, to *end
	ledgers  []*ledger // of the senders, by their numbers
	tallies  []*tally  // of the readers
}

// A fate is the outcome of an offered message, as far as its sender knows.
type fate uint8

const (
	undecided fate = iota // the call has not returned: the message may arrive
	accepted              // the call returned nil: the message arrives, unless the connection ends first
	refused               // the call returned an error that promises that nothing was sent
	unknown               // the connection ended during the call: the message may have arrived
)

// A ledger has the fates of one sender's messages, by their numbers.
type ledger struct {
	typ    websocket.MessageType
	sender int
	fates  []fate
	counts [4]atomic.Int64 // of the fates, for other goroutines to load while the sender is running
}

func (f *flow) addLedger() *ledger {
	l := &ledger{typ: f.from.Sends, sender: len(f.ledgers)}
	f.ledgers = append(f.ledgers, l)
	return l
}

// next offers a message.
func (l *ledger) next(length int) message {
	l.counts[undecided].Add(1)
	l.fates = append(l.fates, undecided)
	return message{l.typ, l.sender, len(l.fates) - 1, length &^ (unit - 1)}
}

// settle records the fate of the message that was offered last.
func (l *ledger) settle(f fate) {
	l.fates[len(l.fates)-1] = f
	l.counts[f].Add(1)
	l.counts[undecided].Add(-1)
}

// count returns how many messages of the flow have a fate.
func (f *flow) count(of fate) (n int64) {
	for _, l := range f.ledgers {
		n += l.counts[of].Load()
	}
	return n
}

// left returns how many messages have been accepted but not read yet.
func (f *flow) left() int64 {
	n := f.count(accepted)
	for _, t := range f.tallies {
		n -= t.taken.Load()
	}
	return n
}

// A tally holds the messages that one reader received.
type tally struct {
	flow  *flow
	who   *actor
	got   []receipt
	last  map[int]int  // number of the last message, by sender
	holes int          // messages given up before their first bytes identified them
	taken atomic.Int64 // messages, for other goroutines to load
}

// A receipt is a message that a reader received, or gave up before its end.
type receipt struct {
	message
	whole bool
}

func (f *flow) addTally(a *actor) *tally {
	t := &tally{flow: f, who: a, last: make(map[int]int)}
	f.tallies = append(f.tallies, t)
	return t
}

// note judges the message p, or the beginning of one that the reader gave up.
func (t *tally) note(p []byte, whole bool) {
	t.taken.Add(1)
	m, ok := identify(t.flow.from.Sends, p)
	if !ok && !whole && len(p) <= headSize {
		t.holes++
		return
	}
	if !ok || !bytes.HasPrefix(m.body(), p) || whole && len(p) != m.size() {
		t.who.fail("corrupt", "got %d bytes, whole: %t, which are not %+v: %.60q", len(p), whole, m, p)
		return
	}
	if last, ok := t.last[m.sender]; ok && last >= m.seq {
		t.who.fail("order", "got %+v after number %d", m, last)
	}
	t.last[m.sender] = m.seq
	t.got = append(t.got, receipt{m, whole})
}

// check compares what was offered with what arrived, once all actors are done. If complete is set, every accepted message
// must have arrived; otherwise the last ones of each sender may be missing, because the connection ended.
func (f *flow) check(complete bool) {
	holes, arrived := 0, make([][]bool, len(f.ledgers))
	for i, l := range f.ledgers {
		arrived[i] = make([]bool, len(l.fates))
	}
	for _, t := range f.tallies {
		holes += t.holes
		for _, m := range t.got {
			f.checkArrival(m, arrived)
		}
	}
	gaps, tail, example := f.missing(arrived)
	if complete {
		gaps += tail
	}
	if gaps > holes {
		f.fail("lost", "%d accepted messages did not arrive although the connection did not end before them (%s); readers gave up %d unseen", gaps, example, holes)
	}
}

// checkArrival marks m as arrived. A message may arrive only once, and not at all if it was refused. (The beginning of
// a refused message may arrive, when its Writer gave up; a stream cannot tell the beginning from the whole.)
func (f *flow) checkArrival(m receipt, arrived [][]bool) {
	if m.sender >= len(arrived) || m.seq >= len(arrived[m.sender]) {
		f.fail("corrupt", "%+v arrived and was never offered", m)
		return
	}
	if arrived[m.sender][m.seq] {
		f.fail("twice", "%+v arrived twice", m)
	}
	arrived[m.sender][m.seq] = true
	if m.whole && f.ledgers[m.sender].fates[m.seq] == refused && !(f.to.Reading == "stream" && f.from.torn.Load()) {
		f.fail("refused", "%+v arrived although its call reported that nothing was sent", m)
	}
}

// missing counts the accepted messages that did not arrive: those before one of the same sender that did, and the others.
func (f *flow) missing(arrived [][]bool) (gaps, tail int, example string) {
	for i, l := range f.ledgers {
		lost := 0
		for seq, fate := range l.fates {
			if arrived[i][seq] {
				gaps, lost = gaps+lost, 0
			} else if fate == accepted {
				lost++
				example = fmt.Sprintf("such as number %d of sender %d", seq, i)
			}
		}
		tail += lost
	}
	return gaps, tail, example
}

func (f *flow) fail(class, format string, args ...any) {
	f.from.pair.fail(class, "from the "+f.from.name+": "+format, args...)
}
