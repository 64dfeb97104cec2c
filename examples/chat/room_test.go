package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

// A guest acts as a page, without a browser.
type guest struct {
	*websocket.Conn
	t *testing.T
}

func dial(t *testing.T, addr, room, name string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	q := url.Values{"room": {room}, "name": {name}}
	return websocket.Dial(ctx, "ws://"+addr+"/ws?"+q.Encode(), nil)
}

func join(t *testing.T, addr, room, name string) guest {
	t.Helper()
	c, err := dial(t, addr, room, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return guest{c, t}
}

func (g guest) says(text string) {
	g.t.Helper()
	if err := g.Write(g.t.Context(), websocket.TextMessage, []byte(text)); err != nil {
		g.t.Fatal(err)
	}
}

// next reads one event.
func (g guest) next() event {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	var e event
	if err := g.ReadJSON(ctx, &e); err != nil {
		g.t.Fatal(err)
	}
	return e
}

// hears reads one event and compares it with a line such as "Ann: hello", "Ann joined", "Ann left" or
// "welcome: Ann, Bob". It returns the event.
func (g guest) hears(want string) event {
	g.t.Helper()
	e := g.next()
	if got := line(e); got != want {
		g.t.Fatalf("heard %q, want %q", got, want)
	}
	return e
}

func line(e event) string {
	switch {
	case e.Joined != nil:
		return e.Joined.Name + " joined"
	case e.Left != nil:
		return e.Left.Name + " left"
	case e.From != nil:
		return e.From.Name + ": " + e.Text
	}
	var names []string
	for _, p := range e.People {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return "welcome: " + strings.Join(names, ", ")
}

func TestRoom_GetsItsMessages_AndNoOther(t *testing.T) {
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears("welcome: Ann")
	eve := join(t, addr, "cellar", "Eve")
	eve.hears("welcome: Eve")
	bob := join(t, addr, "lobby", "Bob")
	bob.hears("welcome: Ann, Bob")
	ann.hears("Bob joined")

	ann.says("<b>héllo</b> 👋")
	ann.hears("Ann: <b>héllo</b> 👋")
	bob.hears("Ann: <b>héllo</b> 👋")
	eve.says("alone")
	eve.hears("Eve: alone")

	bob.Close(websocket.StatusNormalClosure, "")
	ann.hears("Bob left")
}

func TestRoom_TellsTwoPeopleApart_WhenTheyHaveOneName(t *testing.T) {
	addr, _ := start(t)
	first := join(t, addr, "lobby", "Ann")
	me := first.hears("welcome: Ann").You
	second := join(t, addr, "lobby", "Ann")
	welcome := second.hears("welcome: Ann, Ann (2)")
	if welcome.You == me || welcome.You == "" {
		t.Errorf("the IDs are %q and %q", me, welcome.You)
	}
	first.hears("Ann (2) joined")
	second.says("hello")
	if from := first.hears("Ann (2): hello").From; from.ID != welcome.You {
		t.Errorf("the message is from %q, want %q", from.ID, welcome.You)
	}
	first.Close(websocket.StatusNormalClosure, "")
	second.hears("Ann (2): hello")
	second.hears("Ann left")
	if third := join(t, addr, "lobby", "Ann").hears("welcome: Ann, Ann (2)"); third.You == me {
		t.Error("the ID of somebody who has left is used again")
	}
}

func TestRoom_SendsANewcomer_TheLastMessages(t *testing.T) {
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears("welcome: Ann")
	for _, text := range []string{"one", "two", "three"} {
		ann.says(text)
	}
	var last int64
	for _, text := range []string{"one", "two", "three"} {
		time := ann.hears("Ann: " + text).Time
		if time <= last {
			t.Errorf("%s: time %d after %d; the page would drop it", text, time, last)
		}
		last = time
	}
	bob := join(t, addr, "lobby", "Bob")
	bob.hears("welcome: Ann, Bob")
	for _, text := range []string{"one", "two", "three"} {
		bob.hears("Ann: " + text)
	}
}

func TestRoom_KeepsABoundedNumberOfMessages(t *testing.T) {
	h := newHub()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	defer server.CloseNow()
	rm := h.enter(server, "lobby", "Ann")
	for i := range 3 * maxRecent {
		h.say(server, rm, fmt.Sprint(i))
	}
	if n := len(rm.recent); n != maxRecent {
		t.Errorf("%d messages kept, want %d", n, maxRecent)
	}
	h.leave(server, rm)
	if len(h.rooms) != 0 {
		t.Error("an empty room was kept")
	}
}

func TestChat_SaysWhy_WhenItRefusesAName(t *testing.T) {
	addr, _ := start(t)
	for name, says := range map[string]string{
		"":                             "missing",
		" ":                            "invisible",
		" Ann":                         "invisible",
		"Ann\u200d":                    "invisible",
		"\u200c":                       "invisible",
		"A\nB":                         "U+000A",
		"A\u202eB":                     "U+202E",
		"A\xffB":                       "UTF-8",
		strings.Repeat("é", maxName+1): "32",
	} {
		for what, q := range map[string][2]string{"room": {name, "Ann"}, "name": {"lobby", name}} {
			g := join(t, addr, q[0], q[1])
			if why := g.next().Refused; !strings.Contains(why, says) || !strings.Contains(why, what) {
				t.Errorf("%s %q: the reason %q does not say %q", what, name, why, says)
			}
			if _, _, err := g.Read(t.Context()); !errors.Is(err, websocket.StatusPolicyViolation) {
				t.Errorf("%s %q: %v, want code 1008", what, name, err)
			}
		}
	}
}

func TestChat_AcceptsNames_ThatCanBeShown(t *testing.T) {
	addr, _ := start(t)
	for _, name := range []string{
		"Zoë Ω 9", strings.Repeat("é", maxName),
		"👩\u200d💻", "نیک\u200cنام", // an emoji and a name that need joiners
	} {
		join(t, addr, name, name).hears("welcome: " + name)
	}
}

func TestChat_ClosesOffenders(t *testing.T) {
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
			ann.hears("welcome: Ann")
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
	ann.hears("welcome: Ann")
	ann.says(strings.Repeat("x", maxText))
	ann.hears("Ann: " + strings.Repeat("x", maxText))
}

func TestEvent_IsSmallJSON(t *testing.T) {
	e := event{From: &person{ID: "1", Name: "Ann"}, Text: "hi", Time: 7}
	if got, want := string(e.encode()), `{"from":{"id":"1","name":"Ann"},"text":"hi","time":7}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
