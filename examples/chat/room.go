package main

import (
	"context"
	"encoding/json"
	"log"
	"maps"
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
	maxName    = 32                    // characters of a name and of a room
	maxPending = 256 << 10             // bytes: who is further behind is closed with 1013, and reconnects
	maxPeople  = 10_000                // in all rooms
	maxRecent  = 50                    // messages that a newcomer is shown
	pause      = 50 * time.Millisecond // between two messages of one person
)

// An event is what the server tells the page: a message, or who is in the room.
type event struct {
	From   string   `json:"from,omitempty"`
	Text   string   `json:"text,omitempty"`
	Time   int64    `json:"time,omitempty"` // milliseconds since 1970; grows from message to message of a room
	People []string `json:"people,omitempty"`
}

// A hub holds the rooms in which somebody is.
type hub struct {
	everyone websocket.Group
	mu       sync.Mutex // guards what follows; nothing done under it blocks, for Send and Broadcast do not
	rooms    map[string]*room
}

// A room is a Group and what a Group does not know: the names, and the last messages.
type room struct {
	group  websocket.Group
	names  map[*websocket.Conn]string
	recent []*websocket.PreparedMessage
	last   int64 // Time of the newest message
}

func newHub() *hub { return &hub{rooms: make(map[string]*room)} }

// handler is the WebSocket: /ws?name=Ann&room=lobby. The page sends bare texts and receives events.
func (h *hub) handler() http.Handler {
	ws := websocket.Handler(&websocket.Options{
		MaxMessageSize: maxText,
		MaxPending:     maxPending,
		Group:          &h.everyone,
	}, h.talk)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case !validName(q.Get("name")) || !validName(q.Get("room")):
			http.Error(w, "name and room are 1 to 32 printable characters", http.StatusBadRequest)
		case h.everyone.Len() >= maxPeople:
			http.Error(w, "too many people", http.StatusServiceUnavailable)
		default:
			ws.ServeHTTP(w, r)
		}
	})
}

func validName(s string) bool {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	return s != "" && s == strings.TrimSpace(s) && utf8.ValidString(s) &&
		utf8.RuneCountInString(s) <= maxName && !strings.ContainsFunc(s, unprintable)
}

// talk is one person's stay in a room.
func (h *hub) talk(c *websocket.Conn, r *http.Request) {
	name, room := r.URL.Query().Get("name"), r.URL.Query().Get("room")
	h.enter(c, room, name)
	defer h.leave(c, room)
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			log.Printf("%q in %q: %v", name, room, err)
			return
		}
		if m.Type != websocket.TextMessage {
			c.Close(websocket.StatusUnsupportedData, "text only")
			return
		}
		h.say(room, event{From: name, Text: string(m.Data)})
		time.Sleep(pause) // meanwhile nothing is read, and TCP makes a flood wait at its source
	}
}

func (h *hub) enter(c *websocket.Conn, name, person string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rm := h.rooms[name]
	if rm == nil {
		rm = &room{names: make(map[*websocket.Conn]string)}
		h.rooms[name] = rm
	}
	rm.names[c] = person
	rm.group.Add(c)
	for _, m := range rm.recent {
		c.SendPrepared(m) // an error is the connection's, and its reader will see it
	}
	rm.tellPeople()
}

func (h *hub) leave(c *websocket.Conn, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rm := h.rooms[name]
	rm.group.Remove(c)
	delete(rm.names, c)
	if len(rm.names) == 0 {
		delete(h.rooms, name)
		return
	}
	rm.tellPeople()
}

func (h *hub) say(name string, e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rm := h.rooms[name]
	rm.last = max(rm.last+1, time.Now().UnixMilli())
	e.Time = rm.last
	rm.recent = append(rm.recent, rm.tell(e))
	if len(rm.recent) > maxRecent {
		rm.recent = slices.Delete(rm.recent, 0, 1)
	}
}

// tellPeople sends the names to all in the room; the page finds out itself who came and who left.
func (rm *room) tellPeople() {
	rm.tell(event{People: slices.Compact(slices.Sorted(maps.Values(rm.names)))})
}

// tell encodes and frames e once, however many are in the room.
func (rm *room) tell(e event) *websocket.PreparedMessage {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, b)
	if err != nil {
		panic(err) // JSON is UTF-8
	}
	rm.group.Broadcast(m)
	return m
}
