package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

// start serves the chat on a port of its own; stop drains it and returns what serve returned.
func start(t *testing.T) (addr string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln); close(done) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(func() { stop() })
	return ln.Addr().String(), stop
}

// A person is a page without a browser.
type person struct {
	*websocket.Conn
	t *testing.T
}

func dial(t *testing.T, addr, room, name string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q := url.Values{"room": {room}, "name": {name}}
	return websocket.Dial(ctx, "ws://"+addr+"/ws?"+q.Encode(), nil)
}

func join(t *testing.T, addr, room, name string) person {
	t.Helper()
	c, err := dial(t, addr, room, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return person{c, t}
}

func (p person) say(text string) {
	p.t.Helper()
	if err := p.Write(p.t.Context(), websocket.TextMessage, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// hears reads one event and compares it without its time, which it returns.
func (p person) hears(want event) int64 {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	var got event
	if err := p.ReadJSON(ctx, &got); err != nil {
		p.t.Fatalf("waiting for %+v: %v", want, err)
	}
	time := got.Time
	got.Time = 0
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		p.t.Fatalf("got %+v, want %+v", got, want)
	}
	return time
}

func here(names ...string) event { return event{People: names} }

func TestMessagesReachTheRoomAndNoOther(t *testing.T) {
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears(here("Ann"))
	eve := join(t, addr, "cellar", "Eve")
	eve.hears(here("Eve"))
	bob := join(t, addr, "lobby", "Bob")
	bob.hears(here("Ann", "Bob"))
	ann.hears(here("Ann", "Bob"))

	ann.say("<b>héllo</b> 👋")
	ann.hears(event{From: "Ann", Text: "<b>héllo</b> 👋"})
	bob.hears(event{From: "Ann", Text: "<b>héllo</b> 👋"})
	eve.say("alone")
	eve.hears(event{From: "Eve", Text: "alone"})

	bob.Close(websocket.StatusNormalClosure, "")
	ann.hears(here("Ann"))
}

func TestNewcomerSeesTheLastMessages(t *testing.T) {
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears(here("Ann"))
	for _, text := range []string{"one", "two", "three"} {
		ann.say(text)
	}
	var last int64
	for _, text := range []string{"one", "two", "three"} {
		time := ann.hears(event{From: "Ann", Text: text})
		if time <= last {
			t.Errorf("%s: time %d after %d; the page would drop it", text, time, last)
		}
		last = time
	}
	bob := join(t, addr, "lobby", "Bob")
	for _, text := range []string{"one", "two", "three"} {
		bob.hears(event{From: "Ann", Text: text})
	}
	bob.hears(here("Ann", "Bob"))
}

func TestRecentMessagesAreBounded(t *testing.T) {
	h := newHub()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	h.enter(server, "lobby", "Ann")
	for i := range 3 * maxRecent {
		h.say("lobby", event{From: "Ann", Text: fmt.Sprint(i)})
	}
	if n := len(h.rooms["lobby"].recent); n != maxRecent {
		t.Errorf("%d messages kept, want %d", n, maxRecent)
	}
	h.leave(server, "lobby")
	if len(h.rooms) != 0 {
		t.Error("an empty room was kept")
	}
	server.CloseNow()
}

func TestNamesAreChecked(t *testing.T) {
	addr, _ := start(t)
	for _, name := range []string{"", " ", " Ann", "A\nB", "A\u202eB", "A\xffB", strings.Repeat("é", maxName+1)} {
		for _, q := range [][2]string{{"lobby", name}, {name, "Ann"}} {
			c, err := dial(t, addr, q[0], q[1])
			var refused *websocket.HandshakeError
			if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest {
				t.Errorf("room %q, name %q: %v, want status 400", q[0], q[1], err)
			}
			if err == nil {
				c.CloseNow()
			}
		}
	}
	join(t, addr, strings.Repeat("é", maxName), "Zoë Ω 9").hears(here("Zoë Ω 9"))
}

func TestOffendersAreClosed(t *testing.T) {
	for _, offence := range []struct {
		name string
		typ  websocket.MessageType
		size int
		want websocket.StatusCode
	}{
		{"binary", websocket.BinaryMessage, 1, websocket.StatusUnsupportedData},
		{"too long", websocket.TextMessage, maxText + 1, websocket.StatusMessageTooBig},
	} {
		t.Run(offence.name, func(t *testing.T) {
			addr, _ := start(t)
			ann := join(t, addr, "lobby", "Ann")
			ann.hears(here("Ann"))
			if err := ann.Write(t.Context(), offence.typ, make([]byte, offence.size)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, _, err := ann.Read(ctx); !errors.Is(err, offence.want) {
				t.Errorf("closed with %v, want %v", err, offence.want)
			}
		})
	}
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears(here("Ann"))
	ann.say(strings.Repeat("x", maxText))
	ann.hears(event{From: "Ann", Text: strings.Repeat("x", maxText)})
}

func TestDrainSaysGoingAway(t *testing.T) {
	addr, stop := start(t)
	ann, bob := join(t, addr, "lobby", "Ann"), join(t, addr, "cellar", "Bob")
	ann.hears(here("Ann"))
	bob.hears(here("Bob"))
	closed := make(chan error, 2)
	for _, p := range []person{ann, bob} {
		go func() {
			_, _, err := p.Read(context.Background())
			closed <- err
		}()
	}
	if err := stop(); err != nil {
		t.Errorf("drained: %v", err)
	}
	for range 2 {
		if err := <-closed; !errors.Is(err, websocket.StatusGoingAway) {
			t.Errorf("closed with %v, want 1001", err)
		}
	}
	if _, err := dial(t, addr, "lobby", "Eve"); err == nil {
		t.Error("a drained server let somebody in")
	}
}

func TestPageIsServedWithItsPolicy(t *testing.T) {
	addr, _ := start(t)
	for path, typ := range map[string]string{
		"/": "text/html", "/chat.js": "text/javascript", "/chat.css": "text/css", "/icon.svg": "image/svg+xml",
	} {
		res, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || !strings.HasPrefix(got, typ) {
			t.Errorf("%s: status %d, type %q", path, res.StatusCode, got)
		}
		if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'self'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}

func TestEventsAreSmallJSON(t *testing.T) {
	b, err := json.Marshal(event{From: "Ann", Text: "hi", Time: 7})
	if err != nil || string(b) != `{"from":"Ann","text":"hi","time":7}` {
		t.Errorf("%s, %v", b, err)
	}
}
