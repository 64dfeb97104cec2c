package main

import (
	"bufio"
	"encoding/json"
	"expvar"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"example.com/websocket"
)

// scrape reads /metrics, checks its format and returns its values by name.
func scrape(t *testing.T, addr string) map[string]float64 {
	t.Helper()
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if typ := res.Header.Get("Content-Type"); res.StatusCode != 200 || !strings.HasPrefix(typ, "text/plain; version=0.0.4") {
		t.Fatalf("status %d, type %q", res.StatusCode, typ)
	}
	values, kinds := make(map[string]float64), make(map[string]string)
	comment := regexp.MustCompile(`^# (HELP|TYPE) ([a-z_]+) (.+)$`)
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		if m := comment.FindStringSubmatch(s.Text()); m != nil {
			if m[1] == "TYPE" {
				kinds[m[2]] = m[3]
			}
			continue
		}
		var name string
		var value float64
		if n, err := fmt.Sscanf(s.Text(), "%s %g", &name, &value); n != 2 {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		want := "gauge"
		if strings.HasSuffix(name, "_total") {
			want = "counter"
		}
		if kinds[name] != want {
			t.Errorf("%s is a %q, want a %s", name, kinds[name], want)
		}
		values[name] = value
	}
	return values
}

func TestMetrics_CountConnectionsAndMessages(t *testing.T) {
	addr, _ := start(t)
	ann := join(t, addr, "lobby", "Ann")
	ann.hears("welcome: Ann")
	bob := join(t, addr, "lobby", "Bob")
	bob.hears("welcome: Ann, Bob")
	ann.hears("Bob joined")
	ann.says("hello")
	ann.hears("Ann: hello")
	bob.hears("Ann: hello")
	if e := join(t, addr, "lobby", "").next(); e.Refused == "" {
		t.Fatalf("a person without a name was let in: %+v", e)
	}

	before := scrape(t, addr)
	if before["chat_connections"] < 2 {
		t.Errorf("%v connections while two are in the lobby", before["chat_connections"])
	}
	for name, want := range map[string]float64{
		"chat_rooms": 1, "chat_joined_total": 2, "chat_refused_total": 1, "chat_pending_bytes": 0,
		"chat_messages_read_total": 1, "chat_messages_written_total": 5,
		"chat_bytes_read_total": 2 + 4 + 5, // a header, a masking key, a word
	} {
		if before[name] != want {
			t.Errorf("%s is %v, want %v", name, before[name], want)
		}
	}

	// Counters include the connections that have ended.
	bob.Close(websocket.StatusNormalClosure, "")
	ann.hears("Bob left")
	after := scrape(t, addr)
	for name, value := range before {
		if strings.HasSuffix(name, "_total") && after[name] < value {
			t.Errorf("%s decreased from %v to %v", name, value, after[name])
		}
	}
	if got := after["chat_messages_written_total"]; got != 6 {
		t.Errorf("%v messages written, want 6", got)
	}
}

func TestMetrics_AreTheSame_InExpvar(t *testing.T) {
	h := newHub()
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	defer server.CloseNow()
	rm := h.enter(server, "lobby", "Ann")
	h.say(server, rm, "hello")

	var vars map[string]float64
	if err := json.Unmarshal([]byte(expvar.Func(h.vars).String()), &vars); err != nil {
		t.Fatal(err)
	}
	for _, m := range h.metrics() {
		if vars[m.name] != m.value {
			t.Errorf("%s is %v in expvar, want %v", m.name, vars[m.name], m.value)
		}
	}
	if got := vars["chat_messages_written_total"]; got != 2 {
		t.Errorf("%v messages written, want a welcome and a message", got)
	}
}
