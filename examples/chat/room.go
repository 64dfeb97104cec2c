package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/websocket"
)

const (
	maxText    = 4 << 10               // bytes of one message
	maxName    = 32                    // characters of a user's or a room's name
	maxPending = 256 << 10             // bytes; a connection that falls further behind is closed with 1013, and the page reconnects
	maxPeople  = 10_000                // in all rooms
	maxRecent  = 50                    // messages that a newcomer is shown
	pause      = 50 * time.Millisecond // between two messages of one person
)

// A person is one connection in a room. The name is unique in the room. The ID is unique everywhere, because names are
// reused.
type person struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// An event is a message from the server to the page. It is a refusal (Refused), a welcome (You and People), an
// arrival (Joined), a departure (Left) or something said (From, Text and Time).
type event struct {
	Refused string   `json:"refused,omitempty"` // shown to the user: why the server does not accept the name or the room
	You     string   `json:"you,omitempty"`     // ID of the receiver
	People  []person `json:"people,omitempty"`
	Joined  *person  `json:"joined,omitempty"`
	Left    *person  `json:"left,omitempty"`
	From    *person  `json:"from,omitempty"`
	Text    string   `json:"text,omitempty"`
	Time    int64    `json:"time,omitempty"` // milliseconds since 1970; increases from message to message in a room
}

// A hub holds the rooms that have people in them.
type hub struct {
	everyone websocket.Group
	mu       sync.Mutex // guards all fields below and the rooms; nothing blocks while it is held
	rooms    map[string]*room
	past     websocket.Stats // the sum over the connections that have ended
	joined   uint64
	refused  uint64
}

// A room is a Group with names and the last messages.
type room struct {
	name   string
	group  websocket.Group
	people map[*websocket.Conn]person
	recent []*websocket.PreparedMessage
	last   int64 // Time of the newest message
}

func newHub() *hub { return &hub{rooms: make(map[string]*room)} }

// handler serves the WebSocket at /ws?name=Ann&room=lobby. The page sends plain texts and receives events.
func (h *hub) handler() http.Handler {
	ws := websocket.Handler(&websocket.Options{
		MaxMessageSize: maxText,
		MaxPending:     maxPending,
		Group:          &h.everyone,
		ErrorLog:       log.Default(), // why a handshake was refused
	}, h.talk)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.everyone.Len() >= maxPeople {
			http.Error(w, "too many people", http.StatusServiceUnavailable)
			return
		}
		ws.ServeHTTP(w, r)
	})
}

// talk serves one connection: it joins the room and reads until the person leaves.
func (h *hub) talk(c *websocket.Conn, r *http.Request) {
	q := r.URL.Query()
	name, room := q.Get("name"), q.Get("room")
	if problem := cmp.Or(check("name", name), check("room", room)); problem != "" {
		h.refuse(c, problem)
		return
	}
	rm := h.enter(c, room, name)
	defer h.leave(c, rm)
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			log.Printf("%q in %q: %v", name, room, err)
			return
		}
		if m.Type != websocket.TextMessage {
			c.Close(websocket.StatusUnsupportedData, "text only")
			return
		}
		h.say(c, rm, string(m.Data))
		time.Sleep(pause) // nothing is read meanwhile, so TCP slows a flood down at its source
	}
}

// check returns a sentence that says what is wrong with a name or a room, or "". Zero-width joiners are part of emoji
// and of Persian and Indic names, but a name may not begin or end with one, or consist only of them.
func check(what, s string) string {
	isJoiner := func(r rune) bool { return r == '\u200c' || r == '\u200d' }
	isUnfit := func(r rune) bool { return !unicode.IsPrint(r) && !isJoiner(r) }
	switch {
	case s == "":
		return "The " + what + " is missing."
	case !utf8.ValidString(s):
		return "The " + what + " is not valid UTF-8."
	case utf8.RuneCountInString(s) > maxName:
		return fmt.Sprintf("The %s is longer than %d characters.", what, maxName)
	case strings.ContainsFunc(s, isUnfit):
		r, _ := utf8.DecodeRuneInString(s[strings.IndexFunc(s, isUnfit):])
		return fmt.Sprintf("The %s contains %U, which cannot be shown.", what, r)
	case s != strings.TrimFunc(s, func(r rune) bool { return r == ' ' || isJoiner(r) }):
		return "The " + what + " begins or ends with an invisible character."
	}
	return ""
}

// refuse tells the page why it may not enter, and closes the connection. It does not refuse the handshake, because a
// browser hides the status and the body from the page. It does not use the reason of the close frame, which is not
// meant for users (RFC 6455, section 5.5.1).
func (h *hub) refuse(c *websocket.Conn, problem string) {
	h.mu.Lock()
	h.refused++
	h.mu.Unlock()
	c.Send(websocket.TextMessage, event{Refused: problem}.encode())
	c.Close(websocket.StatusPolicyViolation, "refused")
}

// enter adds c to a room, which it creates for the first person, and tells the others.
func (h *hub) enter(c *websocket.Conn, where, name string) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.joined++
	rm := h.rooms[where]
	if rm == nil {
		rm = &room{name: where, people: make(map[*websocket.Conn]person)}
		h.rooms[where] = rm
	}
	p := person{ID: rand.Text(), Name: rm.unused(name)}
	rm.tell(event{Joined: &p})
	rm.people[c] = p
	rm.group.Add(c)
	welcome := event{You: p.ID}
	for _, p := range rm.people {
		welcome.People = append(welcome.People, p)
	}
	c.Send(websocket.TextMessage, welcome.encode()) // an error means that the connection has ended, which talk notices
	for _, m := range rm.recent {
		c.SendPrepared(m)
	}
	return rm
}

// unused returns the name with a number added if somebody else in the room has it.
func (rm *room) unused(wanted string) string {
	names := make(map[string]bool)
	for _, p := range rm.people {
		names[p.Name] = true
	}
	name := wanted
	for n := 2; names[name]; n++ {
		name = fmt.Sprintf("%s (%d)", wanted, n)
	}
	return name
}

// leave takes c out of its room and drops the room when the last person is gone.
func (h *hub) leave(c *websocket.Conn, rm *room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := rm.people[c]
	h.past = add(h.past, c.Stats())
	rm.group.Remove(c)
	delete(rm.people, c)
	if len(rm.people) == 0 {
		delete(h.rooms, rm.name)
		return
	}
	rm.tell(event{Left: &p})
}

// say tells the room what c has sent.
func (h *hub) say(c *websocket.Conn, rm *room, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := rm.people[c]
	rm.last = max(rm.last+1, time.Now().UnixMilli())
	rm.recent = append(rm.recent, rm.tell(event{From: &from, Text: text, Time: rm.last}))
	if len(rm.recent) > maxRecent {
		rm.recent = slices.Delete(rm.recent, 0, 1)
	}
}

// tell encodes and frames e once, however many people are in the room.
func (rm *room) tell(e event) *websocket.PreparedMessage {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, e.encode())
	if err != nil {
		panic(err) // JSON is UTF-8
	}
	rm.group.Broadcast(m)
	return m
}

func (e event) encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	return b
}
