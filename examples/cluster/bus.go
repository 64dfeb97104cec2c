package main

import (
	"context"
	"encoding/base64"
	"errors"
	"log"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

const (
	kept     = 50              // messages of each room that the stream keeps
	keptFor  = 24 * time.Hour  // and for how long
	patience = 5 * time.Second // the time for JetStream to store a message
	look     = 5 * time.Second // the time between two checks for messages that did not arrive
	try      = 2 * time.Second // the time for JetStream to answer
	pause    = 250 * time.Millisecond
)

// A Bus connects the rooms of this process with the same rooms of all other processes that use the same NATS. One
// JetStream stream holds the messages of all rooms. Multiple goroutines may call its methods simultaneously.
type Bus struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	replicas int // of the stream, if this process creates it
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	complain rate.Sometimes // limits the log of failures, which many rooms have at the same time
}

// A Follower receives the messages of a room. The calls come one at a time and must not block.
type Follower interface {
	Stream(id string)   // comes first, and again when another stream replaces it: sequence numbers start over
	Messages([]Message) // gets each message once, in the order of the stream, beginning with all that it holds. The list may be empty
	Online(bool)        // reports whether messages arrive; missed messages are delivered before Online(true)
}

// A Message is data that was given to Publish, and its place in the stream.
type Message struct {
	Seq  uint64    // increases, but not by one: all rooms share the stream
	Time time.Time // when it was stored, by the clock of the NATS server
	Data []byte
	Gap  bool // messages before this one may be missing: the stream dropped them before they could be read
}

// OpenBus connects to NATS and creates the stream if it does not exist. It retries until ctx ends. A stream is created
// with the given number of replicas; an existing one is not changed.
func OpenBus(ctx context.Context, url string, replicas int) (*Bus, error) {
	nc, err := nats.Connect(url, nats.Name("chat"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(pause), nats.Timeout(try), nats.NoCallbacksAfterClientClose(),
		nats.PingInterval(2*time.Second), // a silent link is lost within 6 s
		nats.ReconnectBufSize(-1),        // without a link, Publish fails: nothing is buffered and lost later
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Print("bus: disconnected: ", err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Print("bus: ", err) }))
	if err != nil {
		return nil, err
	}
	b := &Bus{nc: nc, replicas: replicas, complain: rate.Sometimes{Interval: time.Second}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if b.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(try)); err == nil {
		err = retry(ctx, func(ctx context.Context) error { _, err := b.stream(ctx); return err })
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) stream(ctx context.Context) (jetstream.Stream, error) {
	s, err := b.js.Stream(ctx, "CHAT")
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return s, err
	}
	return b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "CHAT", Subjects: []string{"chat.*"}, Replicas: b.replicas,
		MaxMsgsPerSubject: kept, MaxAge: keptFor, MaxBytes: 1 << 30, MaxMsgSize: 16 << 10,
		Duplicates: 2 * time.Minute, // for Publish
		// A stored message goes out with its sequence number and that of the message before it in the room.
		RePublish: &jetstream.RePublish{Source: "chat.*", Destination: "live.{{wildcard(1)}}"},
	})
}

// Close ends all subscriptions and disconnects from NATS.
func (b *Bus) Close() {
	b.cancel()
	b.running.Wait()
	b.nc.Close()
}

// Publish stores data as the next message of room, once for each id within two minutes. After an error, the message may
// or may not be stored: publish it again with the same id, which may contain letters, digits, "-", "_" and ".".
func (b *Bus) Publish(ctx context.Context, room, id string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return retry(ctx, func(ctx context.Context) error {
		_, err := b.js.Publish(ctx, "chat."+token(room), data, jetstream.WithMsgID(token(room)+"."+id))
		return err
	})
}

// token encodes room as a token of a subject or a key, in which spaces, dots and wildcards have a meaning.
func token(room string) string { return base64.RawURLEncoding.EncodeToString([]byte(room)) }

// A subscription is a room that this process follows.
type subscription struct {
	bus    *Bus
	token  string // of the room
	to     Follower
	stream string // owned by the goroutine of follow, with the fields below
	loaded bool   // Messages was called since Stream
	last   uint64 // sequence number of the last message that was delivered
}

// Follow delivers to f the messages of room that the stream holds, and then new ones, until stop is called.
func (b *Bus) Follow(room string, f Follower) (stop func()) {
	ctx, stop := context.WithCancel(b.ctx)
	s := &subscription{bus: b, token: token(room), to: f}
	b.running.Go(func() { b.persist(ctx, s.follow) })
	return stop
}

// follow delivers messages as they arrive, until ctx ends or something fails. A message that did not arrive is read from
// the stream: before the next message that arrives, or at the next look.
func (s *subscription) follow(ctx context.Context) error {
	lost := s.bus.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer s.bus.nc.RemoveStatusListener(lost)
	live := make(chan *nats.Msg, 1024)
	sub, err := s.bus.nc.ChanSubscribe("live."+s.token, live)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err = s.catchUp(ctx); err != nil {
		return err
	}
	s.to.Online(true)
	defer s.to.Online(false)
	tick := time.Tick(look)
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			return nats.ErrConnectionReconnecting
		case m := <-live:
			err = s.deliver(ctx, m)
		case <-tick: // a failure must not stop the delivery of messages that arrive
			s.to.Online(s.catchUp(ctx) == nil)
		}
	}
	return err
}

// deliver delivers a message that arrived, if it is the next one.
func (s *subscription) deliver(ctx context.Context, m *nats.Msg) error {
	seq, err1 := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	previous, err2 := strconv.ParseUint(m.Header.Get(jetstream.LastSequenceHeader), 10, 64)
	at, err3 := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	switch err := errors.Join(err1, err2, err3); {
	case err != nil:
		return err
	case seq <= s.last:
		return nil
	case previous != s.last:
		return s.catchUp(ctx)
	}
	s.last = seq
	s.to.Messages([]Message{{Seq: seq, Time: at, Data: m.Data}})
	return nil
}

// catchUp delivers the messages that the stream holds after the last one delivered.
func (s *subscription) catchUp(ctx context.Context) error {
	stream, err := s.bus.stream(ctx)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	id := strconv.FormatInt(info.Created.UnixNano(), 36)
	if id != s.stream || s.last > info.State.LastSeq { // created anew, or restored from a backup
		s.stream, s.loaded, s.last = id, false, 0
		s.to.Stream(id)
	}
	get := func(seq uint64) (*jetstream.RawStreamMsg, error) { // the first message of the room from seq on
		return stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("chat."+s.token))
	}
	var list []Message
	m, err := get(s.last + 1)
	for ; err == nil && len(list) <= kept; m, err = get(m.Sequence + 1) {
		list = append(list, Message{Seq: m.Sequence, Time: m.Time, Data: m.Data})
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return err
	}
	if n := len(list); n > 0 {
		oldest, err := get(list[0].Seq)
		if err != nil {
			return err
		}
		// If the stream dropped part of the list meanwhile, it may also have dropped messages between that part and the
		// rest.
		for len(list) > 1 && list[0].Seq < oldest.Sequence {
			list = list[1:]
		}
		list[0].Gap, s.last = s.loaded && (n >= kept || len(list) < n), list[len(list)-1].Seq
	}
	s.loaded = true
	s.to.Messages(list)
	return nil
}

// persist calls f repeatedly until ctx ends.
func (b *Bus) persist(ctx context.Context, f func(context.Context) error) {
	for ctx.Err() == nil {
		if err := f(ctx); ctx.Err() == nil && b.nc.IsConnected() {
			b.complain.Do(func() { log.Print("bus: ", err) })
		}
		sleep(ctx, pause+rand.N(pause))
	}
}

// retry calls f until it succeeds or ctx ends.
func retry(ctx context.Context, f func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, try)
		err := f(once)
		cancel()
		if err == nil || sleep(ctx, pause) != nil {
			return err
		}
	}
}

// sleep waits for d, or returns an error if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err()
}
