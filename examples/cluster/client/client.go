// Package client is a member of a chat room that survives the failure of nodes. It connects to another node, resumes
// where it left off, and repeats messages until they are stored.
package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/websocket"
)

const (
	dialTime = 5 * time.Second
	minDelay = 100 * time.Millisecond // before the first attempt to reconnect
	maxDelay = 5 * time.Second        // before any attempt
)

// An Event is a message from a node. The type event in room.go documents its fields.
type Event struct {
	Seq     uint64
	Time    int64
	From    string
	ID      string
	Text    string
	Stream  string
	Gap     bool
	People  []string
	Online  *bool
	Refused string
	Reason  string
}

// A Client is a member of a room. Set the exported fields before Run.
type Client struct {
	Nodes   []string        // URLs, http://host:port; the first is tried first
	Room    string          //
	Cookie  *http.Cookie    // from SignIn
	Receive func(Event)     // is called with each event, in order
	Retry   func(err error) // if not nil, is called with the reason of each reconnection

	mu      sync.Mutex // guards the fields below; nothing blocks while it is held
	conn    *websocket.Conn
	pending []*saying // in the order of Say

	// Owned by the goroutine of Run.
	stream string
	after  uint64
}

// A saying is a message that has not been seen in the stream yet.
type saying struct {
	ID   string `json:"id"`
	Text string `json:"text"`
	seen chan struct{}
}

// SignIn returns the cookie of a person with the given name.
func SignIn(ctx context.Context, node, name string) (*http.Cookie, error) {
	body := strings.NewReader(url.Values{"name": {name}}.Encode())
	r, err := http.NewRequestWithContext(ctx, "POST", node+"/login", body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	if len(res.Cookies()) != 1 {
		return nil, fmt.Errorf("signing in as %q: %s", name, res.Status)
	}
	return res.Cookies()[0], nil
}

// Run connects, and reconnects after a random and growing delay, until ctx ends or a node refuses the request.
func (c *Client) Run(ctx context.Context) error {
	tries := 0
	for next := 0; ; next++ {
		worked, err := c.visit(ctx, c.Nodes[next%len(c.Nodes)])
		var refused *websocket.HandshakeError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused) && refused.StatusCode/100 == 4:
			return err
		case c.Retry != nil:
			c.Retry(err)
		}
		tries++
		if worked {
			tries = 0
		}
		delay := minDelay + mathrand.N(min(maxDelay, minDelay<<min(tries, 10)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// visit stays on one node until the connection ends. It reports whether the connection worked.
func (c *Client) visit(ctx context.Context, node string) (worked bool, err error) {
	conn, err := c.dial(ctx, node)
	if err != nil {
		return false, err
	}
	defer conn.CloseNow()
	c.use(conn)
	defer c.use(nil)
	for m, err := range conn.Messages(ctx) {
		if err != nil {
			return worked, err
		}
		var e Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return worked, err
		}
		worked = true
		c.handle(ctx, e)
	}
	return worked, context.Cause(conn.Context())
}

func (c *Client) dial(ctx context.Context, node string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	q := url.Values{"room": {c.Room}}
	if c.stream != "" {
		q.Set("stream", c.stream)
		q.Set("after", strconv.FormatUint(c.after, 10))
	}
	header := http.Header{"Cookie": {c.Cookie.Name + "=" + c.Cookie.Value}}
	return websocket.Dial(ctx, node+"/ws?"+q.Encode(), &websocket.Options{Header: header})
}

// use makes conn the connection to send on, and repeats the pending messages on it.
func (c *Client) use(conn *websocket.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	for _, s := range c.pending {
		c.send(s)
	}
}

// send sends s, if there is a connection. An error ends the connection, and the next one repeats s. It is called with
// c.mu held.
func (c *Client) send(s *saying) {
	if c.conn == nil {
		return
	}
	p, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	if c.conn.Send(websocket.TextMessage, p) != nil {
		c.conn.CloseNow()
	}
}

func (c *Client) handle(ctx context.Context, e Event) {
	if e.Stream != "" && e.Stream != c.stream {
		c.stream, c.after = e.Stream, 0
	}
	if e.Seq != 0 {
		c.after = e.Seq
		c.seen(e.ID)
	}
	if e.Refused != "" {
		time.AfterFunc(minDelay+mathrand.N(minDelay), func() { c.repeat(e.Refused) })
	}
	c.Receive(e)
}

// seen ends the Say of a message. IDs are random, so another client's ID is not in pending.
func (c *Client) seen(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = slices.DeleteFunc(c.pending, func(s *saying) bool {
		if s.ID == id {
			close(s.seen)
		}
		return s.ID == id
	})
}

func (c *Client) repeat(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.pending {
		if s.ID == id {
			c.send(s)
		}
	}
}

// Say sends text and returns when it has come back as a message of the room. Until then, it repeats the text on every
// new connection and after every refusal; the room still sees it only once. If ctx ends first, the room may or may not
// see it.
func (c *Client) Say(ctx context.Context, text string) error {
	s := &saying{ID: rand.Text(), Text: text, seen: make(chan struct{})}
	c.mu.Lock()
	c.pending = append(c.pending, s)
	c.send(s)
	c.mu.Unlock()
	select {
	case <-s.seen:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending = slices.DeleteFunc(c.pending, func(p *saying) bool { return p == s })
		return ctx.Err()
	}
}
