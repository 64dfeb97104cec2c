package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/websocket"
)

// A fuzzingServer is the suite's, as far as dialAll sees it: it has two cases, and closes without a code.
type fuzzingServer struct {
	mu    sync.Mutex // guards paths
	paths []string
}

func (f *fuzzingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.paths = append(f.paths, r.URL.Path)
	f.mu.Unlock()
	c, err := websocket.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	ctx := r.Context()
	switch r.URL.Path {
	case "/getCaseCount":
		c.Write(ctx, websocket.TextMessage, []byte("2"))
	case "/getCaseStatus":
		c.Write(ctx, websocket.TextMessage, []byte(`{"behavior": "OK"}`))
	}
	c.NetConn().Write([]byte{0x88, 0}) // RFC 6455, section 5.5.1: a Close frame may be empty
	c.Read(ctx)
}

func TestDialAll_TakesPartInAllCases_OfASuiteThatStartsLater(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := reserved.Addr().String()
	reserved.Close()
	done := make(chan error, 1)
	go func() { done <- dialAll("ws://" + addr) }()

	var suite fuzzingServer
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: &suite}
	go srv.Serve(ln)
	defer srv.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, path := range suite.paths {
		counts[path]++
	}
	n := len(agents())
	want := map[string]int{"/getCaseCount": 1, "/runCase": 2 * n, "/getCaseStatus": 2 * n, "/updateReports": n}
	if fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("asked for %v, want %v", counts, want)
	}
}

// reportOf writes a report in which all agents have the same verdicts, but the first has the last one.
func reportOf(t *testing.T, agents []agent, verdicts ...string) string {
	t.Helper()
	var all []string
	for i, a := range agents {
		var cases []string
		for n, v := range verdicts {
			if n == len(verdicts)-1 && i > 0 {
				v = verdicts[0]
			}
			behavior, closing, _ := strings.Cut(v, "/")
			cases = append(cases, fmt.Sprintf(`"1.1.%d": {"behavior": %q, "behaviorClose": %q, "duration": 2}`, n+1, behavior, closing))
		}
		all = append(all, fmt.Sprintf("%q: {%s}", a.name, strings.Join(cases, ", ")))
	}
	path := filepath.Join(t.TempDir(), "index.json")
	if err := os.WriteFile(path, []byte("{"+strings.Join(all, ", ")+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck_Fails_UnlessAllCasesPassStrictly(t *testing.T) {
	all := agents()
	for _, c := range []struct {
		name, path string
		ok         bool
	}{
		{"all well", reportOf(t, all, "OK/OK", "INFORMATIONAL/INFORMATIONAL", "UNIMPLEMENTED/OK"), true},
		{"non-strict", reportOf(t, all, "OK/OK", "NON-STRICT/OK"), false},
		{"failed", reportOf(t, all, "OK/OK", "FAILED/OK"), false},
		{"closed badly", reportOf(t, all, "OK/OK", "OK/UNCLEAN"), false},
		{"wrong code", reportOf(t, all, "OK/OK", "OK/WRONG CODE"), false},
		{"an agent is missing", reportOf(t, all[1:], "OK/OK", "OK/OK"), false},
		{"no cases", reportOf(t, all), false},
		{"no agents", reportOf(t, nil), false},
		{"no report", filepath.Join(t.TempDir(), "missing"), false},
	} {
		if err := check(c.path, io.Discard); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The configuration of the suite names the agents that the server has.
func TestServer_HasTheAgents_OfTheConfiguration(t *testing.T) {
	b, err := os.ReadFile("fuzzingclient.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range agents() {
		if !strings.Contains(string(b), `"url": "ws://127.0.0.1:9002/`+a.name+`"`) {
			t.Errorf("fuzzingclient.json does not test %s", a.name)
		}
	}
	if n := strings.Count(string(b), `"agent"`); n != len(agents()) {
		t.Errorf("fuzzingclient.json tests %d agents, want %d", n, len(agents()))
	}
}
