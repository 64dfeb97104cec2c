package storm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"

	"example.com/websocket"
)

// The model of a connection is two flows, one for each direction. A flow knows every message that was offered to it and
// every message that came out of it, and check compares the two once the connection is over. While the connection lives,
// each ledger and each tally belongs to one goroutine: a lock here would order the calls of the connection's users, and
// the race detector could no longer see those that nothing orders.

// A fate is what became of an offered message, as far as its sender knows.
type fate uint8

const (
	open     fate = iota // the call has not returned: the message may arrive
	accepted             // the call returned nil: the message arrives, unless the connection ends before
	refused              // the call returned an error that promises that nothing was sent
	unknown              // the connection ended under the call: the message may have arrived
)

// A kind says what the payload of a flow's messages is made of.
type kind uint8

const (
	binary kind = iota // any bytes
	text               // UTF-8, with characters of one to four bytes
	quoted             // text that is one JSON string
	kinds
)

func (k kind) String() string { return [...]string{"binary", "text", "JSON"}[k] }

// typ returns the type of the messages.
func (k kind) typ() websocket.MessageType {
	if k == binary {
		return websocket.BinaryMessage
	}
	return websocket.TextMessage
}

const (
	maxSize  = 1 << 20 // of a filling
	headSize = 20      // "123 123456 12345678 "
	unit     = 4       // fillings begin and end at multiples of it, which are never inside a character
	offsets  = 1 << 12 // where a filling may begin, in units
)

// fillings hold the payloads of all messages: each is a part of one of them.
var fillings = [kinds][]byte{makeBinary(), makeText(), makeText()}

// makeBinary alternates between what can be compressed and what cannot.
func makeBinary() []byte {
	r := rand.New(rand.NewPCG(1, 1))
	p := make([]byte, maxSize+offsets*unit)
	for i := range p {
		if i>>11&1 == 0 {
			p[i] = byte(r.Uint32())
		}
	}
	return p
}

func makeText() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	units := [...]string{"abcd", "line", " of ", "the ", "🙂", "文x", "éü", "x€", strconv.Itoa(1000 + r.IntN(9000))}
	var p []byte
	for len(p) < maxSize+offsets*unit {
		p = append(p, units[r.IntN(len(units))]...)
	}
	return p
}

// A message is known by its sender and its number there, and says so in its first bytes.
type message struct {
	kind                kind
	sender, seq, length int
}

// body returns a fresh copy of the message.
func (m message) body() []byte {
	p := make([]byte, 0, m.size())
	if m.kind == quoted {
		p = append(p, '"')
	}
	p = fmt.Appendf(p, "%03d %06d %08d ", m.sender, m.seq, m.length)
	at := (m.sender*4093 + m.seq*509) % offsets * unit
	p = append(p, fillings[m.kind][at:at+m.length]...)
	if m.kind == quoted {
		p = append(p, '"')
	}
	return p
}

// size returns the length of the body.
func (m message) size() int {
	n := headSize + m.length
	if m.kind == quoted {
		n += 2
	}
	return n
}

// identify returns the message that p begins. It is false if p is too short to tell, or no message of ours.
func identify(k kind, p []byte) (m message, ok bool) {
	if k == quoted {
		p = bytes.TrimPrefix(p, []byte{'"'})
	}
	if len(p) < headSize {
		return m, false
	}
	m.kind = k
	for i, field := range [...]*int{&m.sender, &m.seq, &m.length} {
		from, to := [...]int{0, 4, 11}[i], [...]int{3, 10, 19}[i]
		n, err := strconv.Atoi(string(p[from:to]))
		if err != nil || n < 0 {
			return m, false
		}
		*field = n
	}
	return m, m.length <= maxSize && m.length%unit == 0
}

// A flow is one direction of a connection.
type flow struct {
	pair    *pair
	from    string // the name of the sending end
	to      *end
	kind    kind
	ledgers []*ledger // of the senders, by their numbers
	tallies []*tally  // of the readers
}

// A ledger has the fates of one sender's messages, by their numbers.
type ledger struct {
	kind      kind
	sender    int
	fates     []fate
	undecided atomic.Int64 // messages of calls that have not returned; like the next two, for others to look at
	doubtful  atomic.Int64
	accepted  atomic.Int64
}

func (f *flow) addLedger() *ledger {
	l := &ledger{kind: f.kind, sender: len(f.ledgers)}
	f.ledgers = append(f.ledgers, l)
	return l
}

// next offers a message.
func (l *ledger) next(length int) message {
	l.fates = append(l.fates, open)
	l.undecided.Add(1)
	return message{l.kind, l.sender, len(l.fates) - 1, length &^ (unit - 1)}
}

// settle notes what became of the message that was offered last.
func (l *ledger) settle(f fate) {
	l.fates[len(l.fates)-1] = f
	switch f {
	case accepted:
		l.accepted.Add(1)
	case unknown:
		l.doubtful.Add(1)
	}
	l.undecided.Add(-1)
}

// isEmpty reports whether all that was offered has arrived. No new message must be offered.
func (f *flow) isEmpty() bool {
	for _, l := range f.ledgers {
		if l.undecided.Load() > 0 {
			return false
		}
	}
	return f.left() <= 0 || !f.to.reading.receives
}

// isCertain reports whether the fates of all messages are known.
func (f *flow) isCertain() bool {
	return !slices.ContainsFunc(f.ledgers, func(l *ledger) bool { return l.doubtful.Load() > 0 })
}

// left returns how many messages were accepted and not read yet.
func (f *flow) left() int64 { return f.accepted() - f.read() }

// accepted returns how many messages of the flow were accepted so far.
func (f *flow) accepted() (n int64) {
	for _, l := range f.ledgers {
		n += l.accepted.Load()
	}
	return n
}

// read returns how many messages came out of the flow so far.
func (f *flow) read() (n int64) {
	for _, t := range f.tallies {
		n += t.taken.Load()
	}
	return n
}

// A tally has the messages that one reader got.
type tally struct {
	flow  *flow
	who   *actor
	got   []receipt
	last  map[int]int // number of the last message, by sender
	whole uint64      // messages read to their end
	holes int         // messages given up before their first bytes told which they were
	taken atomic.Int64
}

// A receipt is a message that a reader got, or gave up before its end.
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
	if whole {
		t.whole++
	}
	m, ok := identify(t.flow.kind, p)
	switch {
	case !ok && !whole && len(p) <= headSize:
		t.holes++
		return
	case !ok:
		t.flow.fail("corrupt", "%s got %d bytes that are no message: %.60q", t.who.name, len(p), p)
		return
	}
	if want := m.body(); !bytes.HasPrefix(want, p) || whole && len(p) != len(want) {
		t.flow.fail("corrupt", "%s got message %d of sender %d with %d of %d bytes, the first wrong one at %d, whole: %t",
			t.who.name, m.seq, m.sender, len(p), len(want), common(p, want), whole)
	}
	if last, ok := t.last[m.sender]; ok && last >= m.seq {
		t.flow.fail("order", "%s got message %d of sender %d after message %d", t.who.name, m.seq, m.sender, last)
	}
	t.last[m.sender] = m.seq
	t.got = append(t.got, receipt{m, whole})
}

// common returns how many bytes p and q have in common at their beginnings.
func common(p, q []byte) (n int) {
	for n < min(len(p), len(q)) && p[n] == q[n] {
		n++
	}
	return n
}

func (f *flow) fail(class, format string, args ...any) {
	f.pair.fail(class, "from the "+f.from+": "+format, args...)
}

// check compares what was offered with what arrived, once all senders and readers have returned. If complete is set,
// every accepted message must have arrived; otherwise the last ones may be missing, because the connection ended.
func (f *flow) check(complete bool) {
	holes := 0
	arrived := make([][]bool, len(f.ledgers))
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
	if gaps > holes {
		f.fail("lost", "%d accepted messages are missing before messages that arrived (%s); readers gave up %d unseen", gaps, example, holes)
	}
	if complete && gaps+tail > holes {
		f.fail("lost", "%d accepted messages did not arrive although the connection did not end before them (%s); readers gave up %d unseen", gaps+tail, example, holes)
	}
}

// checkArrival marks m as arrived, which it may do only once and only if it was not refused. The beginning of a refused
// message may arrive, when its Writer gave up.
func (f *flow) checkArrival(m receipt, arrived [][]bool) {
	if m.sender >= len(arrived) || m.seq >= len(arrived[m.sender]) {
		f.fail("corrupt", "message %d of sender %d arrived and was never offered", m.seq, m.sender)
		return
	}
	if arrived[m.sender][m.seq] {
		f.fail("twice", "message %d of sender %d arrived twice", m.seq, m.sender)
	}
	arrived[m.sender][m.seq] = true
	if m.whole && f.ledgers[m.sender].fates[m.seq] == refused {
		f.fail("refused", "message %d of sender %d arrived although its call reported that nothing was sent", m.seq, m.sender)
	}
}

// missing counts accepted messages that did not arrive: those before one of the same sender that did, and the others.
func (f *flow) missing(arrived [][]bool) (gaps, tail int, example string) {
	for i, l := range f.ledgers {
		lost := 0
		for seq, fate := range l.fates {
			switch {
			case arrived[i][seq]:
				gaps += lost
				lost = 0
			case fate == accepted:
				lost++
				if example == "" {
					example = fmt.Sprintf("such as number %d of sender %d", seq, i)
				}
			}
		}
		tail += lost
	}
	return gaps, tail, example
}
