package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	refresh   = 2 * time.Second // the time between two entries of a node with the same people
	settle    = time.Second     // the time between two entries of a node with different people
	maxMissed = 2               // entries of a node that may be missing before its people are gone
	heartbeat = "_"             // the room in the key of a heartbeat
)

// A Directory knows the people in each room, on all nodes. It is a key-value bucket with an entry for each room and node,
// which the node writes again every 2 s. Multiple goroutines may call its methods simultaneously.
//
// Clocks do not matter: an entry is dropped when three heartbeats of this node have come back from the bucket since the
// entry was written. Nobody is dropped while the bucket is unavailable.
type Directory struct {
	bus    *Bus
	node   string // in keys
	bucket jetstream.KeyValue

	mu    sync.Mutex       // guards the fields below; nothing blocks while it is held
	stays map[string]*Stay // by room
	count int              // of stays so far

	// Owned by the goroutine of watch.
	entries map[string]map[string]entry // by room and key
	beats   int                         // heartbeats that came back
	unheard int                         // heartbeats written since the last one that came back
}

// An entry is the people of a room on one node.
type entry struct {
	names []string
	beat  int // Directory.beats when it was written last
}

// OpenDirectory creates the bucket if it does not exist. It retries until ctx ends. Closing the Bus ends it.
func OpenDirectory(ctx context.Context, b *Bus) (*Directory, error) {
	d := &Directory{bus: b, node: rand.Text(), stays: make(map[string]*Stay), entries: make(map[string]map[string]entry)}
	err := retry(ctx, func(ctx context.Context) (err error) { d.bucket, err = d.open(ctx); return err })
	if err != nil {
		return nil, err
	}
	b.running.Go(func() { b.persist(b.ctx, d.watch) })
	return d, nil
}

func (d *Directory) open(ctx context.Context) (jetstream.KeyValue, error) {
	bucket, err := d.bus.js.KeyValue(ctx, "CHAT_PEOPLE")
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return bucket, err
	}
	return d.bus.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:   "CHAT_PEOPLE",
		TTL:      maxMissed * refresh,
		Storage:  jetstream.MemoryStorage,
		MaxBytes: 64 << 20,
		Replicas: d.bus.replicas,
	})
}

// A Stay is the presence of this node's people in a room.
type Stay struct {
	room, key string
	names     chan []string // the newest list, until it is written
	tell      func([]string)
	told      []string // owned by the goroutine of watch
	cancel    context.CancelFunc
}

// Enter calls tell with the names of everybody in the room, sorted and without duplicates, whenever they change. The
// calls come one at a time and must not block. They begin after Announce and end after Leave.
func (d *Directory) Enter(room string, tell func(names []string)) *Stay {
	ctx, cancel := context.WithCancel(d.bus.ctx)
	s := &Stay{room: token(room), names: make(chan []string, 1), tell: tell, cancel: cancel}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	s.key = fmt.Sprintf("%s.%s.%d", s.room, d.node, d.count) // a new key, because the previous one may still be deleted
	d.stays[s.room] = s
	d.bus.running.Go(func() { d.keep(ctx, s) })
	return s
}

// Announce replaces the names of the people on this node. It does not block. Calls must not overlap.
func (s *Stay) Announce(names []string) {
	select {
	case <-s.names:
	default:
	}
	s.names <- names
}

// Leave withdraws the people of this node, in the background.
func (s *Stay) Leave() { s.cancel() }

// keep writes the entry of s when the names change and every 2 s, and deletes it when ctx ends.
func (d *Directory) keep(ctx context.Context, s *Stay) {
	defer d.leave(ctx, s)
	tick := time.Tick(refresh)
	var value []byte
	for {
		select {
		case <-ctx.Done():
			return
		case names := <-s.names:
			value, _ = json.Marshal(names)
		case <-tick:
		}
		d.put(ctx, s.key, value) // if this fails, the next tick repeats it
		sleep(ctx, settle)       // all changes in this time share one entry
	}
}

func (d *Directory) leave(ctx context.Context, s *Stay) {
	d.bucket.Delete(context.WithoutCancel(ctx), s.key) // if this fails, the entry expires
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stays[s.room] == s {
		delete(d.stays, s.room)
	}
}

func (d *Directory) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, refresh/2)
	defer cancel()
	_, err := d.bucket.Put(ctx, key, value)
	return err
}

// watch follows the bucket until ctx ends, the connection is lost or heartbeats do not come back.
func (d *Directory) watch(ctx context.Context) error {
	if _, err := d.open(ctx); err != nil {
		return err
	}
	w, err := d.bucket.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer discard(w)
	lost := d.bus.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer d.bus.nc.RemoveStatusListener(lost)
	tick := time.Tick(refresh)
	d.unheard = 0
	for d.beat(ctx); d.unheard <= maxMissed; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			return nats.ErrConnectionReconnecting
		case <-tick:
			d.beat(ctx)
		case e, open := <-w.Updates():
			if !open {
				return errors.New("the watcher of people was closed")
			}
			if e != nil { // nil: the entries that existed before have been sent
				d.apply(e)
			}
		}
	}
	return errors.New("the watcher of people is silent")
}

func (d *Directory) beat(ctx context.Context) {
	d.unheard++
	d.put(ctx, heartbeat+"."+d.node, nil) // if this fails, the heartbeat does not come back
}

// discard stops w and reads the entries that w still holds, because its goroutine would block on them.
func discard(w jetstream.KeyWatcher) {
	w.Stop()
	go func() {
		for range w.Updates() {
		}
	}()
}

func (d *Directory) apply(e jetstream.KeyValueEntry) {
	room, node, _ := strings.Cut(e.Key(), ".")
	var names []string
	switch {
	case room == heartbeat && node == d.node:
		d.beats++
		d.unheard = 0
		d.sweep()
	case room == heartbeat:
	case e.Operation() == jetstream.KeyValuePut && json.Unmarshal(e.Value(), &names) == nil:
		if d.entries[room] == nil {
			d.entries[room] = make(map[string]entry)
		}
		d.entries[room][e.Key()] = entry{names, d.beats}
		d.tell(room)
	default:
		delete(d.entries[room], e.Key())
		d.tell(room)
	}
}

// sweep drops the entries that are no longer written.
func (d *Directory) sweep() {
	for room, entries := range d.entries {
		before := len(entries)
		maps.DeleteFunc(entries, func(_ string, e entry) bool { return d.beats-e.beat > maxMissed })
		if len(entries) < before {
			d.tell(room)
		}
	}
}

func (d *Directory) tell(room string) {
	var names []string
	for _, e := range d.entries[room] {
		names = append(names, e.names...)
	}
	if len(d.entries[room]) == 0 {
		delete(d.entries, room)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	d.mu.Lock()
	s := d.stays[room]
	d.mu.Unlock()
	if s != nil && !slices.Equal(names, s.told) {
		s.told = names
		s.tell(names)
	}
}
