//go:build js

// Wasm is the chat's client in Go. Compiled to WebAssembly, it does in the browser what page/chat.js does. Once "go
// generate" has built it, the chat server serves it at /wasm/.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/url"
	"time"

	"example.com/websocket"
)

// A refusal tells the user why the server does not accept the name or the room.
type refusal string

func (r refusal) Error() string { return string(r) }

// A person is somebody in the room. The ID tells namesakes apart.
type person struct {
	ID   string
	Name string
}

// An event is a message from the server. It is a refusal (Refused), a welcome (You and People), an arrival (Joined), a
// departure (Left) or something said (From, Text and Time).
type event struct {
	Refused      refusal
	You          string
	People       []person
	Joined, Left *person
	From         *person
	Text         string
	Time         int64 // milliseconds since 1970; increases from message to message in a room
}

func main() {
	p := newPage()
	var refused refusal
	for {
		p.showForm(string(refused))
		refused = visit(p, <-p.joined)
	}
}

// visit stays in a room until the user leaves or the server refuses the name. Then it returns the reason.
func visit(p *page, g guest) (refused refusal) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.leave = cancel
	p.showRoom(g.room)
	room := &room{page: p, people: make(map[string]string), mine: make(map[string]bool)}
	for tries := 0; ; tries++ {
		p.status("Connecting…", false)
		err := room.talk(ctx, g, &tries)
		var closed *websocket.CloseError
		switch {
		case ctx.Err() != nil:
			return ""
		case errors.As(err, &refused):
			return refused
		case errors.As(err, &closed) && closed.Reason != "":
			p.status("Connection lost: "+closed.Reason, false)
		default:
			p.status("Connection lost", false)
		}
		select {
		case <-time.After(delay(tries)):
		case <-ctx.Done():
			return ""
		}
	}
}

// delay returns how long to wait before the next try. When a server restarts, it loses all pages at the same moment.
// Each waits for a random time, which grows with each failure (RFC 6455, section 7.2.3).
func delay(tries int) time.Duration {
	longest := min(time.Minute, 5*time.Second<<min(tries, 10))
	return 300*time.Millisecond + rand.N(longest)
}

// A room is the state of the room that the user is in.
type room struct {
	page   *page
	people map[string]string // names by ID
	mine   map[string]bool   // this page's IDs: each connection gets a new one
	newest int64             // Time of the newest message shown: after a reconnect, the server repeats the last messages
}

// talk connects, and shows messages until the connection or ctx ends.
func (r *room) talk(ctx context.Context, g guest, tries *int) error {
	query := url.Values{"name": {g.name}, "room": {g.room}}
	c, err := websocket.Dial(ctx, r.page.server()+"/ws?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { go c.Close(websocket.StatusNormalClosure, "") }() // the page need not wait for it
	go r.page.send(c)
	for m, err := range c.Messages(ctx) {
		if err != nil {
			return err
		}
		var e event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return err
		}
		if e.Refused != "" {
			return e.Refused
		}
		if e.People != nil {
			*tries = 0
		}
		r.handle(e)
	}
	return context.Cause(c.Context())
}

// handle shows an event.
func (r *room) handle(e event) {
	switch {
	case e.People != nil:
		clear(r.people)
		for _, p := range e.People {
			r.people[p.ID] = p.Name
		}
		r.mine[e.You] = true
		r.page.showPeople(r.people, r.mine)
		r.page.status("Connected", true)
	case e.Joined != nil:
		r.people[e.Joined.ID] = e.Joined.Name
		r.page.showPeople(r.people, r.mine)
		r.page.note(e.Joined.Name + " came in")
	case e.Left != nil:
		delete(r.people, e.Left.ID)
		r.page.showPeople(r.people, r.mine)
		r.page.note(e.Left.Name + " left")
	case e.From != nil && e.Time > r.newest:
		r.newest = e.Time
		r.page.showMessage(e, r.mine[e.From.ID])
	}
}
