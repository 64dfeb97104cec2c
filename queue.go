package websocket

import (
	"context"
	"net"
	"sync"
)

// An outFrame is a frame to be sent.
type outFrame struct {
	opcode  opcode
	fin     bool
	rsv1    bool // first frame of a compressed message
	deflate bool // the payload is to be compressed
	part    bool // belongs to the message of a Writer
	kept    bool // goes out even if its call gives up once the frame's turn has come
	patient bool // of Broadcast: may exceed what a Writer holds back, while the peer keeps up
	payload []byte
	length  int // of the payload before compression
}

// isWhole reports whether f is the only frame of its message.
func (f *outFrame) isWhole() bool { return f.fin && f.opcode != opContinuation }

func (f *outFrame) header(masked bool) header {
	return header{fin: f.fin, rsv1: f.rsv1, masked: masked, opcode: f.opcode}
}

// An entry is a place in the queue of a writer. It holds bytes that go out together; or frames that are encoded when
// their turn comes, because they are to be compressed or because their payload is still the caller's; or the wish of a
// Writer to begin its message.
//
// The writer's mutex guards an entry in a queue. An entry that was taken off belongs to the goroutine that took it.
type entry struct {
	next     *entry
	data     []byte         // encoded frames that are still to go out; nil if frames are to be encoded
	frames   []outFrame     // what data holds, or will
	buf      *buffer        // holds data, or the payloads of frames; nil if these are a caller's or a prepared message's
	history  []byte         // the message of a prepared frame, for a compressor that keeps its window
	size     int            // bytes that count as pending
	extra    int            // bytes that were compressed, which Stats count when they are out
	accepted bool           // the calls that made the frames have returned, or will return nil: nothing is withdrawn
	sent     bool           // a part of it is out
	closing  bool           // it is our close frame
	writer   *messageWriter // it is a Writer that waits to begin

	ctx  context.Context // of the call that waits
	done chan error      // receives the result for the call that waits, or nil if none does; of capacity 1

	head   [maxHeader]byte // of a frame that goes out in two buffers
	vector [2][]byte
	rest   net.Buffers // of vector
}

var entries = sync.Pool{New: func() any { return new(entry) }}

func newEntry() *entry { return entries.Get().(*entry) }

// newEntryOf returns an entry with one frame.
func newEntryOf(f *outFrame) *entry {
	e := newEntry()
	e.frames = append(e.frames, *f)
	return e
}

// free tells the call that waits and returns e to the pool.
func (e *entry) free(err error) {
	if e.done != nil {
		e.done <- err
	}
	e.buf.free()
	clear(e.frames)
	*e = entry{frames: e.frames[:0]}
	entries.Put(e)
}

// hasRoom reports whether a frame of n bytes can be added to e, encoded or not.
func (e *entry) hasRoom(encoded bool, n int) bool {
	return e != nil && e.accepted && e.done == nil && !e.closing && e.buf != nil && encoded == (e.data != nil) && cap(e.buf.b)-len(e.buf.b) >= n
}

// isSmallCall reports whether e is a small frame of a call that waits.
func (e *entry) isSmallCall() bool {
	return e != nil && e.done != nil && e.writer == nil && e.data == nil && len(e.frames[0].payload) <= copyLimit
}

// A queue is a list of entries.
type queue struct {
	head, tail *entry
	size       int // of all entries
}

func (q *queue) push(e *entry) {
	if q.tail == nil {
		q.head = e
	} else {
		q.tail.next = e
	}
	q.tail = e
	q.size += e.size
}

// pop returns the first entry, or nil.
func (q *queue) pop() *entry {
	e := q.head
	if e == nil {
		return nil
	}
	q.head, e.next = e.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.size -= e.size
	return e
}

// grow notes that n bytes were added to the last entry.
func (q *queue) grow(n int) {
	q.tail.size += n
	q.size += n
}

// remove takes out the entries that match and returns them.
func (q *queue) remove(match func(*entry) bool) (removed queue) {
	var rest queue
	for e := q.pop(); e != nil; e = q.pop() {
		if match(e) {
			removed.push(e)
		} else {
			rest.push(e)
		}
	}
	*q = rest
	return removed
}

// append moves all entries of other to the end of q.
func (q *queue) append(other *queue) {
	for e := other.pop(); e != nil; e = other.pop() {
		q.push(e)
	}
}
