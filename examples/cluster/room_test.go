package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

// testRoom is a room without NATS.
func testRoom() *room {
	rm := newRoom()
	rm.stay = &Stay{names: make(chan []string, 1)}
	return rm
}

// stored returns messages with these sequence numbers. The text of each is its number.
func stored(seqs ...uint64) (list []Message) {
	for _, seq := range seqs {
		list = append(list, Message{Seq: seq, Time: time.Unix(int64(seq), 0), Data: encode(said{From: "Ann", ID: "1", Text: fmt.Sprint(seq)})})
	}
	return list
}

// visit enters rm. The function that it returns sends the message "end" to the room and returns everything that the
// visitor received before it.
func visit(t *testing.T, rm *room, at cursor) (received func() string) {
	t.Helper()
	server, page := websocket.Pipe(nil, nil)
	t.Cleanup(func() { server.CloseNow(); page.CloseNow() })
	rm.enter(server, "Ann", at)
	return func() string {
		t.Helper()
		rm.Messages([]Message{{Seq: 1 << 40, Data: encode(said{Text: "end"})}})
		var all []string
		for {
			var e event
			if err := page.ReadJSON(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			switch {
			case e.Gap:
				all = append(all, "gap")
			case e.Text == "end":
				return strings.Join(all, " ")
			case e.Text != "":
				all = append(all, e.Text)
			}
		}
	}
}

// A client comes from a node that was ahead of this one. It must not receive a message twice.
func TestRoom_HoldsBack_WhatAClientHasSeenElsewhere(t *testing.T) {
	for _, loaded := range []bool{true, false} {
		rm := testRoom()
		var before, after []func() string
		cursors := []cursor{{"", 0}, {"s", 0}, {"s", 2}, {"s", 4}, {"s", 5}, {"s", 8}, {"other", 8}}
		if !loaded {
			for _, at := range cursors {
				before = append(before, visit(t, rm, at))
			}
		}
		rm.Stream("s")
		rm.Messages(stored(2, 4))
		for _, at := range cursors {
			after = append(after, visit(t, rm, at))
		}
		rm.Messages(stored(5, 7))
		rm.Messages(stored(8))
		rm.Messages(stored(9))
		want := []string{"2 4 5 7 8 9", "2 4 5 7 8 9", "4 5 7 8 9", "5 7 8 9", "7 8 9", "9", "gap 2 4 5 7 8 9"}
		for _, visits := range [][]func() string{before, after} {
			for i, received := range visits {
				// Each call sends an end to everybody; the first one counts.
				if got := received(); got != want[i] {
					t.Errorf("loaded %v, %+v: received %q, want %q", loaded, cursors[i], got, want[i])
				}
			}
		}
	}
}

func TestRoom_KeepsFiftyMessagesOfADay(t *testing.T) {
	rm := testRoom()
	rm.Stream("s")
	var seqs []uint64
	for seq := range uint64(200) {
		seqs = append(seqs, seq+1)
	}
	rm.Messages(stored(seqs...))
	if n := len(rm.recent); n != kept || rm.recent[0].seq != 151 || rm.last() != 200 {
		t.Errorf("%d messages, %d to %d", n, rm.recent[0].seq, rm.last())
	}
	// The times of the messages serve as the clock.
	late := Message{Seq: 300, Time: time.Unix(180, 0).Add(keptFor), Data: encode(said{Text: "late"})}
	rm.Messages([]Message{late})
	var got []uint64
	for _, m := range rm.recent {
		got = append(got, m.seq)
	}
	if want := append(seqs[179:], 300); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRoom_Restarts_WithAnotherStream(t *testing.T) {
	rm := testRoom()
	rm.Stream("old")
	rm.Messages(stored(7, 8))
	live, ahead := visit(t, rm, cursor{}), visit(t, rm, cursor{"old", 9})
	rm.Stream("new")
	rm.Messages(stored(1))
	rm.Messages(stored(2))
	if got := live(); got != "7 8 gap 1 2" {
		t.Errorf("a member received %q", got)
	}
	if got := ahead(); got != "gap 1 2" {
		t.Errorf("a member that was ahead received %q", got)
	}
}
