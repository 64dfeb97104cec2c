package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/websocket"
)

const (
	maxMessage = 4 << 10 // bytes of a message from a page
	maxPending = 1 << 20 // bytes that may be waiting for a page: more than all kept messages of a room and the names of its people
	maxPeople  = 10_000  // connections on this node
	maxMembers = 300     // connections in one room
	maxRooms   = 2_000   // rooms in use: each costs NATS a subscription, and some requests every few seconds
	maxTabs    = 20      // connections of one person
	maxRate    = 5       // messages and arrivals per second of one person
	maxBurst   = 10      // after a silence
	drainTime  = 10 * time.Second
)

//go:embed page
var page embed.FS

// A Node is one process of the chat. Use newNode to make one.
type Node struct {
	Bus          *Bus
	People       *Directory
	Authenticate Authenticate
	SignIn       http.HandlerFunc
	MaxPending   int // as in websocket.Options

	everyone websocket.Group

	mu       sync.Mutex // guards the fields below; nothing blocks while it is held
	rooms    map[string]*room
	speakers map[string]*speaker // by Person.ID
}

// A speaker holds the number of tabs and the rate limit of a person on this node.
type speaker struct {
	tabs  int
	limit *rate.Limiter
}

// Serve serves the page and the WebSocket on ln until ctx ends. It then closes all connections with 1001 (going away),
// and returns when the connections, the people and the subscriptions of this node are gone. It closes the Bus.
func (n *Node) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           n.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // of requests; a WebSocket has limits of its own
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	defer n.Bus.Close()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return n.drain(srv)
	}
}

func (n *Node) drain(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	drained := make(chan error, 1)
	srv.RegisterOnShutdown(func() {
		drained <- n.everyone.Shutdown(ctx, websocket.StatusGoingAway, "the server restarts")
	})
	err := srv.Shutdown(ctx)
	return errors.Join(err, <-drained)
}

func (n *Node) routes() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", n.join)
	mux.HandleFunc("POST /login", n.SignIn)
	mux.HandleFunc("GET /health", n.health)
	mux.Handle("GET /", secure(http.FileServerFS(files)))
	return http.NewCrossOriginProtection().Handler(mux)
}

// secure lets the page load resources of this server only.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// health answers a load balancer: a node without NATS keeps its members but should not get new ones.
func (n *Node) health(w http.ResponseWriter, r *http.Request) {
	if !n.Bus.nc.IsConnected() {
		http.Error(w, "no connection to NATS", http.StatusServiceUnavailable)
	}
}

// join serves the WebSocket at /ws?room=lobby. A page that reconnects adds &stream=…&after=…, the last stream and seq
// that it received.
func (n *Node) join(w http.ResponseWriter, r *http.Request) {
	p, err := n.Authenticate(r)
	if err != nil {
		http.Error(w, "sign in first: "+err.Error(), http.StatusUnauthorized)
		return
	}
	q := r.URL.Query()
	name, at := q.Get("room"), cursor{stream: q.Get("stream")}
	if q.Has("after") {
		at.seq, err = strconv.ParseUint(q.Get("after"), 10, 64)
	}
	switch {
	case err != nil || len(at.stream) > maxName:
		http.Error(w, "stream and after are not from here", http.StatusBadRequest)
	case n.everyone.Len() >= maxPeople:
		http.Error(w, "too many people", http.StatusServiceUnavailable)
	default:
		websocket.Handler(&websocket.Options{
			MaxMessageSize: maxMessage,
			MaxPending:     n.MaxPending,
			Compression:    &websocket.Compression{},
			Group:          &n.everyone,
			ErrorLog:       log.Default(), // why a handshake was refused
		}, func(c *websocket.Conn, _ *http.Request) { n.talk(c, p, name, at) }).ServeHTTP(w, r)
	}
}

// talk serves a person's connection to a room.
func (n *Node) talk(c *websocket.Conn, p Person, name string, at cursor) {
	limit := n.arrive(p)
	defer n.depart(p)
	if limit == nil {
		c.Close(websocket.StatusPolicyViolation, "too many tabs")
		return
	}
	limit.Wait(c.Context()) // because entering a room may cost NATS more than 50 requests
	if problem := check("room", name); problem != "" {
		// A browser hides the status and the body of a refused handshake from the page.
		send(c, frame(event{Reason: problem}))
		c.Close(websocket.StatusPolicyViolation, "invalid room")
		return
	}
	if !n.enter(c, p, name, at) {
		c.Close(websocket.StatusTryAgainLater, "no space in this room")
		return
	}
	defer n.leave(c, name)
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			if !errors.Is(err, websocket.StatusAbnormalClosure) {
				log.Printf("%q in %q: %v", p.Name, name, err)
			}
			return
		}
		if m.Type != websocket.TextMessage {
			c.Close(websocket.StatusUnsupportedData, "text only")
			return
		}
		n.hear(c, p, name, m.Data)
		limit.Wait(c.Context()) // nothing is read meanwhile, so TCP slows a flood down at its source
	}
}

// hear publishes a message of c, or tells c why it was refused.
func (n *Node) hear(c *websocket.Conn, p Person, room string, data []byte) {
	var m struct{ ID, Text string }
	err := json.Unmarshal(data, &m)
	switch {
	case err != nil:
		err = errors.New(`a message is {"id":"…","text":"…"}`)
	case !validID(m.ID):
		m.ID = ""
		err = errors.New(`an id is 1 to 64 letters, digits, "-" and "_"`)
	case m.Text == "":
		err = errors.New("the text is empty")
	default:
		if err = n.Bus.Publish(c.Context(), room, p.ID+"."+m.ID, encode(said{p.Name, m.ID, m.Text})); err != nil {
			err = errors.New("the message could not be stored; try again")
		}
	}
	if err != nil {
		send(c, frame(event{Refused: m.ID, Reason: err.Error()}))
	}
}

// validID accepts IDs that may be part of a NATS header.
func validID(s string) bool {
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// enter makes c a member of a room, unless it is full. The first member makes this node follow the room.
func (n *Node) enter(c *websocket.Conn, p Person, name string, at cursor) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	rm := n.rooms[name]
	if rm == nil {
		if len(n.rooms) >= maxRooms {
			return false
		}
		rm = newRoom()
		rm.stop = n.Bus.Follow(name, rm)
		rm.stay = n.People.Enter(name, rm.People)
		n.rooms[name] = rm
	}
	return rm.enter(c, p.Name, at)
}

func (n *Node) leave(c *websocket.Conn, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rm := n.rooms[name]
	if rm.leave(c) {
		rm.stop()
		rm.stay.Leave()
		delete(n.rooms, name)
	}
}

// arrive returns the rate limit of p on this node, which all tabs share, or nil if p has too many tabs.
func (n *Node) arrive(p Person) *rate.Limiter {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.speakers[p.ID]
	if s == nil {
		s = &speaker{limit: rate.NewLimiter(maxRate, maxBurst)}
		n.speakers[p.ID] = s
	}
	s.tabs++
	if s.tabs > maxTabs {
		return nil
	}
	return s.limit
}

// depart forgets p after the last tab is closed and the rate limit has recovered, so that p gains nothing by
// reconnecting.
func (n *Node) depart(p Person) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.speakers[p.ID]
	if s.tabs--; s.tabs > 0 {
		return
	}
	time.AfterFunc(maxBurst*time.Second/maxRate, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.speakers[p.ID] == s && s.tabs == 0 {
			delete(n.speakers, p.ID)
		}
	})
}
