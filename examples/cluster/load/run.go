package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/websocket/examples/cluster/client"
)

// A run is a set of clients in rooms, and their messages, on one set of processes.
type run struct {
	rooms   []*room
	members []*member
	running sync.WaitGroup // of clients

	delivered, reconnected, refused, gaps atomic.Int64
}

type room struct {
	name    string
	members []*member

	mu        sync.Mutex // guards the fields below
	sent      []message
	unheard   int             // deliveries that are still to come
	latencies []time.Duration // of messages, from the sender to the last receiver
}

type message struct {
	at      time.Time
	unheard int
}

// A member is a client in a room.
type member struct {
	run    *run
	room   *room
	name   string
	say    func(ctx context.Context, text string) error
	joined chan struct{}
	enter  sync.Once // closes joined

	mu    sync.Mutex // guards heard
	heard []heard
}

// heard is a message as a member received it.
type heard struct {
	number int    // in room.sent
	seq    uint64 // in the stream; 0 without NATS
}

func newRun(clients, rooms int) *run {
	r := new(run)
	for i := range rooms {
		r.rooms = append(r.rooms, &room{name: fmt.Sprint("room ", i)})
	}
	for i := range clients {
		rm := r.rooms[i%rooms]
		m := &member{run: r, room: rm, name: fmt.Sprint("client ", i), joined: make(chan struct{})}
		rm.members = append(rm.members, m)
		r.members = append(r.members, m)
	}
	return r
}

// connect connects all members, some at a time, and waits until they have joined.
func (r *run) connect(ctx context.Context, dial func(ctx context.Context, i int, m *member) error) error {
	todo := make(chan int)
	failed := make(chan error, 32)
	for range cap(failed) {
		go func() {
			for i := range todo {
				if err := dial(ctx, i, r.members[i]); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	defer close(todo)
	for i := range r.members {
		select {
		case todo <- i:
		case err := <-failed:
			return err
		}
	}
	for _, m := range r.members {
		select {
		case <-m.joined:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// receive handles an event of a node.
func (m *member) receive(e client.Event) {
	if e.Online != nil && *e.Online {
		m.enter.Do(func() { close(m.joined) })
	}
	if e.Gap {
		m.run.gaps.Add(1)
	}
	if e.Refused != "" {
		m.run.refused.Add(1)
	}
	first, _, _ := strings.Cut(e.Text, " ")
	number, err := strconv.Atoi(first)
	if err != nil {
		return
	}
	m.run.delivered.Add(1)
	m.mu.Lock()
	m.heard = append(m.heard, heard{number, e.Seq})
	m.mu.Unlock()
	m.room.delivered(number)
}

func (rm *room) delivered(number int) {
	now := time.Now()
	rm.mu.Lock()
	defer rm.mu.Unlock()
	rm.unheard--
	msg := &rm.sent[number]
	if msg.unheard--; msg.unheard == 0 {
		rm.latencies = append(rm.latencies, now.Sub(msg.at))
	}
}

// text follows the number in each message, for a total of about 100 bytes.
var text = " " + strings.Repeat("x", 95)

// talk has a member of each room, chosen at random, say something rate times a second. It returns when every member has
// heard every message of its room, or when ctx ends.
func (r *run) talk(ctx context.Context, rate float64, length time.Duration) {
	var talking sync.WaitGroup
	for _, rm := range r.rooms {
		talking.Go(func() {
			interval := time.Duration(float64(time.Second) / rate)
			time.Sleep(rand.N(interval)) // so that rooms do not all talk at once
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for range int(length.Seconds() * rate) {
				talking.Go(func() { rm.say(ctx) })
				<-tick.C
			}
		})
	}
	talking.Wait()
	for ctx.Err() == nil && r.unheard() > 0 {
		time.Sleep(20 * time.Millisecond)
	}
}

func (rm *room) say(ctx context.Context) {
	rm.mu.Lock()
	number := len(rm.sent)
	rm.sent = append(rm.sent, message{time.Now(), len(rm.members)})
	rm.unheard += len(rm.members)
	rm.mu.Unlock()
	rm.members[rand.N(len(rm.members))].say(ctx, strconv.Itoa(number)+text)
}

func (r *run) unheard() (n int) {
	for _, rm := range r.rooms {
		rm.mu.Lock()
		n += rm.unheard
		rm.mu.Unlock()
	}
	return n
}

func (r *run) sent() (n int) {
	for _, rm := range r.rooms {
		n += len(rm.sent)
	}
	return n
}

// latency returns the time within which the given share of the messages reached their last receivers.
func (r *run) latency(share float64) time.Duration {
	var all []time.Duration
	for _, rm := range r.rooms {
		all = append(all, rm.latencies...)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[int(share*float64(len(all)-1))]
}

// check returns an error unless each member heard each message of its room once, in the order of the stream. It is called
// after talk has returned.
func (r *run) check() error {
	var lost, twice, unordered, different int
	for _, m := range r.members {
		m.mu.Lock()
		times := make([]int, len(m.room.sent))
		for i, h := range m.heard {
			times[h.number]++
			if i > 0 && h.seq <= m.heard[i-1].seq && h.seq != 0 {
				unordered++
			}
		}
		for _, n := range times {
			lost += max(0, 1-n)
			twice += max(0, n-1)
		}
		if first := m.room.members[0]; m != first && !slices.Equal(m.heard, first.heard) {
			different++
		}
		m.mu.Unlock()
	}
	if gaps := int(r.gaps.Load()); lost+twice+unordered+different+gaps > 0 {
		return fmt.Errorf("%d deliveries lost, %d twice, %d out of order; %d clients heard another order; %d were told of gaps",
			lost, twice, unordered, different, gaps)
	}
	return nil
}
