package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A recorder is a Follower that sends its calls to a channel.
type recorder chan any

func (r recorder) Stream(id string) { r <- id }
func (r recorder) Messages(list []Message) {
	for _, m := range list {
		r <- m
	}
}
func (r recorder) Online(online bool) { r <- online }

func follow(t *testing.T, b *Bus, room string) recorder {
	r := make(recorder, 1000)
	t.Cleanup(b.Follow(room, r))
	return r
}

// next returns the next value of type T and drops the others.
func next[T any](t *testing.T, r recorder) (v T) {
	t.Helper()
	timeout := time.After(patienceOfTests)
	for {
		select {
		case x := <-r:
			if v, ok := x.(T); ok {
				return v
			}
		case <-timeout:
			t.Fatalf("no %T arrives", v)
		}
	}
}

// hears checks that the next messages have these texts, and that only the first may come after a gap.
func (r recorder) hears(t *testing.T, gap bool, texts ...string) {
	t.Helper()
	last := uint64(0)
	for i, text := range texts {
		m := next[Message](t, r)
		if string(m.Data) != text || m.Seq <= last || m.Gap != (gap && i == 0) {
			t.Fatalf("message %d: %q, seq %d after %d, gap %v; want %q", i, m.Data, m.Seq, last, m.Gap, text)
		}
		last = m.Seq
	}
}

func publish(t *testing.T, b *Bus, room string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Publish(t.Context(), room, token(text), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// waitOnline waits until r is online or offline, as wanted.
func waitOnline(t *testing.T, r recorder, want bool) {
	t.Helper()
	for next[bool](t, r) != want {
	}
}

func TestBus_DeliversWhatWasMissed_AfterTheLinkWasCut(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	link, near := newLink(t, nats)
	here, there := openBus(t, near), openBus(t, nats)
	r := follow(t, here, "lobby")
	publish(t, there, "lobby", "before")
	r.hears(t, false, "before")

	link.cut()
	waitOnline(t, r, false)
	missed := texts("missed", kept-1)
	publish(t, there, "lobby", missed...)
	publish(t, there, "cellar", "elsewhere")
	link.heal()
	r.hears(t, false, missed...)
	publish(t, there, "lobby", "after")
	r.hears(t, false, "after")
}

func TestBus_TellsOfAGap_WhenTheStreamDroppedWhatWasMissed(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 1, kept} {
		t.Run(fmt.Sprint(before, " messages before"), func(t *testing.T) {
			t.Parallel()
			nats := startNATS(t)
			link, near := newLink(t, nats)
			here, there := openBus(t, near), openBus(t, nats)
			publish(t, there, "lobby", texts("before", before)...)
			r := follow(t, here, "lobby")
			r.hears(t, false, texts("before", before)...)
			waitOnline(t, r, true)
			link.cut()
			waitOnline(t, r, false)
			missed := texts("missed", kept+2)
			publish(t, there, "lobby", missed...)
			link.heal()
			r.hears(t, true, missed[2:]...)
		})
	}
}

// The stream drops most of these messages before they could be read from it.
func TestBus_DeliversABurst(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	r := make(recorder, 10_000)
	defer b.Follow("lobby", r)()
	waitOnline(t, r, true)
	all := texts("text", 20*kept)
	for _, text := range all {
		if _, err := b.js.PublishAsync("chat."+token("lobby"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r.hears(t, false, all...)
}

// flood publishes numbers in bursts until the test ends.
func flood(t *testing.T, b *Bus) {
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := b.js.PublishAsync("chat."+token("lobby"), []byte(strconv.Itoa(n))); err != nil {
				t.Error(err)
			}
			if rand.N(kept) == 0 {
				select {
				case <-b.js.PublishAsyncComplete():
				case <-ctx.Done():
				}
				sleep(ctx, rand.N(5*time.Millisecond))
			}
		}
	})
	t.Cleanup(publishing.Wait)
	t.Cleanup(cancel)
}

// follows checks that no message is missing between the one with number last and m, unless m reports a gap.
func follows(t *testing.T, last int, m Message) int {
	t.Helper()
	n, _ := strconv.Atoi(string(m.Data))
	if last >= 0 && (n <= last || n > last+1 && !m.Gap) {
		t.Fatalf("message %d follows %d, gap %v", n, last, m.Gap)
	}
	return n
}

// While a room is read from the stream, the stream may drop messages that have not been read yet.
func TestBus_Follow_MissesNothing_DuringAFlood(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	flood(t, b)
	for range 20 {
		r := make(recorder, 100_000)
		stop := b.Follow("lobby", r)
		last := -1
		for range 3 * kept {
			last = follows(t, last, next[Message](t, r))
		}
		stop()
	}
}

func TestSubscription_CatchesUp_DuringAFlood(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	flood(t, b)
	r := make(recorder, 100_000)
	s := &subscription{bus: b, token: token("lobby"), to: r}
	last := -1
	for range 100 {
		if err := s.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		for len(r) > 0 {
			if m, ok := (<-r).(Message); ok {
				last = follows(t, last, m)
			}
		}
	}
}

func TestSubscription_ReadsFromTheStream_WhatDoesNotArrive(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	live, err := b.nc.SubscribeSync("live." + token("lobby"))
	if err != nil {
		t.Fatal(err)
	}
	r := make(recorder, 100)
	s := &subscription{bus: b, token: token("lobby"), to: r}
	if err := s.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var arrived []*nats.Msg
	for _, text := range []string{"one", "two", "three"} {
		publish(t, b, "cellar", text) // the numbers of a room are not contiguous
		publish(t, b, "lobby", text)
		m, err := live.NextMsg(patienceOfTests)
		if err != nil {
			t.Fatal(err)
		}
		arrived = append(arrived, m)
	}
	for _, i := range []int{0, 2, 1, 2} {
		if err := s.deliver(t.Context(), arrived[i]); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, "lobby", "four")
	if err := s.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.hears(t, false, "one", "two", "three", "four")
	if len(r) > 0 {
		t.Errorf("%v comes too", <-r)
	}
}

func TestBus_Publish_FailsWithoutALink(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	link, near := newLink(t, nats)
	here, there := openBus(t, near), openBus(t, nats)
	r := follow(t, there, "lobby")
	link.cut()
	if err := here.Publish(t.Context(), "lobby", "1", []byte("lost?")); err == nil {
		t.Fatal("published without a link")
	}
	link.heal()
	if err := here.Publish(t.Context(), "lobby", "1", []byte("again")); err != nil {
		t.Fatal(err)
	}
	r.hears(t, false, "again")
}

func TestBus_Publish_StoresAnIDOnce(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	a, b := openBus(t, nats), openBus(t, nats)
	lobby, cellar := follow(t, a, "lobby"), follow(t, a, "cellar")
	publish(t, a, "lobby", "one")
	publish(t, b, "lobby", "one", "two")
	publish(t, b, "cellar", "one")
	lobby.hears(t, false, "one", "two")
	cellar.hears(t, false, "one")
}

func TestBus_Follow_DeliversTheLastMessagesOfTheRoom(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	all := texts("text", kept+5)
	publish(t, b, "a.b *>", all...)
	publish(t, b, "a.b", "elsewhere")
	r := follow(t, b, "a.b *>")
	r.hears(t, false, all[5:]...)
	publish(t, b, "a.b *>", "live")
	r.hears(t, false, "live")
}

func TestBus_Subscribes_OnlyWhileItFollows(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	before := b.nc.NumSubscriptions()
	r := make(recorder, 100)
	stop := b.Follow("lobby", r)
	waitOnline(t, r, true)
	if n := b.nc.NumSubscriptions() - before; n != 1 {
		t.Errorf("%d subscriptions while one room is followed", n)
	}
	stop()
	b.Follow("cellar", r)
	b.cancel()
	b.running.Wait()
	if n := b.nc.NumSubscriptions() - before; n != 0 {
		t.Errorf("%d subscriptions after all rooms were left", n)
	}
}

func TestBus_StartsAnew_WhenTheStreamIsReplaced(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	r := follow(t, b, "lobby")
	first := next[string](t, r)
	publish(t, b, "lobby", texts("old", 5)...)
	r.hears(t, false, texts("old", 5)...)
	if err := b.js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	if id := next[string](t, r); id == first {
		t.Error("the new stream has the id of the old one")
	}
	publish(t, b, "lobby", "new")
	r.hears(t, false, "new")
}

func TestBus_GoesOn_AfterAPurge(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	link, near := newLink(t, nats)
	here, there := openBus(t, near), openBus(t, nats)
	r := follow(t, here, "lobby")
	publish(t, there, "lobby", texts("old", 5)...)
	r.hears(t, false, texts("old", 5)...)
	purge(t, there)
	publish(t, there, "lobby", "new")
	r.hears(t, false, "new")

	purge(t, there)
	link.cut()
	waitOnline(t, r, false)
	publish(t, there, "lobby", "newer")
	link.heal()
	r.hears(t, false, "newer")
}

func purge(t *testing.T, b *Bus) {
	t.Helper()
	s, err := b.stream(t.Context())
	if err == nil {
		err = s.Purge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A stream restored from a backup has the same id and ends earlier.
func TestBus_StartsAnew_WhenTheStreamEndsBeforeTheLastMessage(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	publish(t, b, "lobby", "old")
	s, err := b.stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := make(recorder, 100)
	ahead := &subscription{bus: b, token: token("lobby"), to: r, stream: strconv.FormatInt(s.CachedInfo().Created.UnixNano(), 36), loaded: true, last: 7}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ahead.follow(ctx) }()
	next[string](t, r)
	r.hears(t, false, "old")
	cancel()
	<-done
}

func TestBus_Follows_AfterTheServerRestarted(t *testing.T) {
	t.Parallel()
	e := Embedded{Addr: "127.0.0.1:0", Dir: t.TempDir()}
	url, stop, err := e.Start()
	if err != nil {
		t.Fatal(err)
	}
	b := openBus(t, url)
	r := follow(t, b, "lobby")
	publish(t, b, "lobby", "before")
	r.hears(t, false, "before")
	stop()
	waitOnline(t, r, false)
	e.Addr = url[len("nats://"):]
	if _, stop, err = e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	publish(t, b, "lobby", "after")
	for {
		switch v := (<-r).(type) {
		case string:
			t.Fatal("the stream is another one")
		case Message:
			if string(v.Data) != "after" || v.Gap {
				t.Errorf("%q, gap %v", v.Data, v.Gap)
			}
			return
		}
	}
}

func TestBus_Creates_WhatOtherNodesAccept(t *testing.T) {
	t.Parallel()
	b := openBus(t, startNATS(t))
	s, err := b.stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := jetstream.StreamConfig{MaxMsgsPerSubject: 50, MaxAge: 24 * time.Hour}
	if got := s.CachedInfo().Config; got.MaxMsgsPerSubject != want.MaxMsgsPerSubject || got.MaxAge != want.MaxAge || got.Storage != jetstream.FileStorage {
		t.Errorf("%+v", got)
	}
}
