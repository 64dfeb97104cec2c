package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log"
	"maps"
	"slices"
	"sync"
	"time"

	"example.com/websocket"
)

// An event is a message from a node to a page. A page sends {"id":"…","text":"…"}.
type event struct {
	// A message of the room.
	Seq  uint64 `json:"seq,omitempty"`
	Time int64  `json:"time,omitempty"` // milliseconds since 1970, by the clock of NATS
	said

	// The stream that Seq counts in. It comes first, and again when another stream replaces it. Gap says that messages
	// are missing here, because the stream no longer has them.
	Stream string `json:"stream,omitempty"`
	Gap    bool   `json:"gap,omitempty"`

	People []string `json:"people,omitempty"` // everybody in the room, sent whenever it changes
	Online *bool    `json:"online,omitempty"` // whether messages can be sent and arrive

	// The ID of a message that was not stored, and why. It may be sent again with the same ID.
	Refused string `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// said is the data of a message in the stream.
type said struct {
	From string `json:"from,omitempty"`
	ID   string `json:"id,omitempty"` // chosen by the sender
	Text string `json:"text,omitempty"`
}

// A cursor is the position in a stream up to which a page has received messages.
type cursor struct {
	stream string // "" for a newcomer
	seq    uint64
}

// A room is the state that a node keeps of a room while it has members there. It is a Follower.
type room struct {
	stop func() // of Follow
	stay *Stay
	all  websocket.Group // the members
	live websocket.Group // the members that have received all of recent

	mu      sync.Mutex // guards the fields below; nothing blocks while it is held
	names   map[*websocket.Conn]string
	waiting map[*websocket.Conn]cursor // the members that are not in live
	online  bool
	people  []string
	stream  string    // "" until it is known
	loaded  bool      // recent was read from the stream
	recent  []message // the last messages, at most 50
}

// A message is framed once for all members.
type message struct {
	seq    uint64
	time   time.Time
	framed *websocket.PreparedMessage
}

func newRoom() *room {
	return &room{names: make(map[*websocket.Conn]string), waiting: make(map[*websocket.Conn]cursor)}
}

// enter makes c a member that has received all messages up to at. It returns false if the room is full.
func (rm *room) enter(c *websocket.Conn, name string, at cursor) bool {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	if len(rm.names) >= maxMembers {
		return false
	}
	rm.names[c], rm.waiting[c] = name, at
	rm.all.Add(c)
	send(c, frame(event{Online: &rm.online}))
	if rm.people != nil {
		send(c, frame(event{People: rm.people}))
	}
	rm.admit(c)
	rm.announce()
	return true
}

// leave removes c, whose connection is ending, and reports whether nobody is left.
func (rm *room) leave(c *websocket.Conn) bool {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	delete(rm.names, c)
	delete(rm.waiting, c)
	rm.announce()
	return len(rm.names) == 0
}

func (rm *room) announce() { rm.stay.Announce(slices.Sorted(maps.Values(rm.names))) }

// admit sends c the messages after its cursor and moves it to live. If c comes from a node that was ahead, it waits
// until this node has caught up, because it must not receive a message twice.
func (rm *room) admit(c *websocket.Conn) {
	at := rm.waiting[c]
	resumes := at.stream == rm.stream
	switch {
	case !rm.loaded || resumes && at.seq > rm.last():
		return
	case !resumes:
		at.seq = 0
	}
	delete(rm.waiting, c)
	displaced := len(rm.recent) == kept && at.seq < rm.recent[0].seq
	send(c, frame(event{Stream: rm.stream, Gap: at.stream != "" && (!resumes || displaced)}))
	for _, m := range rm.recent {
		if m.seq > at.seq {
			send(c, m.framed)
		}
	}
	rm.live.Add(c)
}

func (rm *room) last() uint64 {
	if len(rm.recent) == 0 {
		return 0
	}
	return rm.recent[len(rm.recent)-1].seq
}

// Stream begins with an empty room.
func (rm *room) Stream(id string) {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	if rm.stream != "" {
		rm.live.Broadcast(frame(event{Stream: id, Gap: true}))
	}
	rm.stream, rm.loaded, rm.recent = id, false, nil
}

// Messages sends list to the members and keeps it for newcomers.
func (rm *room) Messages(list []Message) {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	for _, m := range list {
		e := event{Seq: m.Seq, Time: m.Time.UnixMilli()}
		if err := json.Unmarshal(m.Data, &e.said); err != nil {
			log.Printf("message %d is not from a node: %v", m.Seq, err)
			continue
		}
		if m.Gap {
			rm.live.Broadcast(frame(event{Stream: rm.stream, Gap: true}))
		}
		framed := frame(e)
		rm.live.Broadcast(framed)
		rm.recent = append(rm.recent, message{m.Seq, m.Time, framed})
	}
	rm.trim()
	rm.loaded = true
	for c := range rm.waiting {
		rm.admit(c)
	}
}

// trim drops messages as the stream does. It uses the clock of NATS, because this node's clock may be wrong.
func (rm *room) trim() {
	for len(rm.recent) > kept || len(rm.recent) > 0 && rm.recent[len(rm.recent)-1].time.Sub(rm.recent[0].time) > keptFor {
		rm.recent[0].framed = nil
		rm.recent = rm.recent[1:]
	}
}

// Online tells the members whether messages arrive.
func (rm *room) Online(online bool) {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	if rm.online != online {
		rm.online = online
		rm.all.Broadcast(frame(event{Online: &online}))
	}
}

// People sends the members the names of everybody in the room.
func (rm *room) People(names []string) {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	rm.people = names
	rm.all.Broadcast(frame(event{People: names}))
}

// frame encodes e as a text message.
func frame(e event) *websocket.PreparedMessage {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, encode(e))
	if err != nil {
		panic(err) // JSON is UTF-8
	}
	return m
}

// encode is json.Marshal, but leaves <, > and & as they are.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // strings, numbers and booleans can always be encoded
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// send is Broadcast to one connection.
func send(c *websocket.Conn, m *websocket.PreparedMessage) {
	if err := c.SendPrepared(m); errors.Is(err, websocket.ErrBacklog) {
		go c.Close(websocket.StatusTryAgainLater, "too slow")
	}
}
