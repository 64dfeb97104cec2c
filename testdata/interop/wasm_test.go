package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/websocket"
)

// The tests in wasm/ are compiled to WebAssembly and run in Node and in Chromium, against a wasmPeer and against
// node/server.js, which serve the same paths.
func TestWebAssembly(t *testing.T) {
	program, small := buildWasm(t), buildWasm(t, "-tags=websocket_nohttp")
	servers := map[string]func(*testing.T) string{
		"our server": func(t *testing.T) string { return serveWasm(t, newWasmPeer()) },
		"Node's ws":  func(t *testing.T) string { return startNodeServer(t).addr },
	}
	for name, start := range servers {
		t.Run("in Node/"+name, func(t *testing.T) {
			judgeWasm(t, runInNode(t, program, wasmArgs(start(t))...), 32)
		})
		t.Run("in Chromium/"+name, func(t *testing.T) {
			judgeWasm(t, runInChromium(t, program, start(t)), 32)
		})
	}
	t.Run("without net-http", func(t *testing.T) {
		judgeWasm(t, runInNode(t, small, wasmArgs(serveWasm(t, newWasmPeer()))...), 30)
	})
}

// The package's own tests of the browser's connection use a fake of the browser's WebSocket object.
func TestWebAssembly_OnFakeObject(t *testing.T) {
	program := buildWasmTests(t, filepath.Join("..", ".."))
	judgeWasm(t, runInNode(t, program, "-test.v", "-test.run=TestBrowserConn"), 11)
}

// buildWasm returns a file with the tests of wasm/.
func buildWasm(t *testing.T, flags ...string) string {
	t.Helper()
	return buildWasmTests(t, "wasm", flags...)
}

// buildWasmTests returns a file with the tests of the package in dir.
func buildWasmTests(t *testing.T, dir string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.wasm")
	build := exec.Command("go", slices.Concat([]string{"test", "-c", "-o", file}, flags, []string{"."})...)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return file
}

// judgeWasm checks that at least the given number of tests ran, and that all passed.
func judgeWasm(t *testing.T, output string, least int) {
	t.Helper()
	t.Helper()
	passed := strings.Count(output, "\n--- PASS")
	if !strings.HasSuffix(strings.TrimSpace(output), "PASS") || strings.Contains(output, "--- FAIL") || passed < least {
		t.Errorf("%d tests passed:\n%s", passed, output)
	}
	t.Logf("%d tests passed", passed)
}

// wasmTimeout bounds a run of the program.
const wasmTimeout = 3 * time.Minute

func wasmArgs(server string) []string {
	return []string{"-test.v", "-test.timeout=" + wasmTimeout.String(), "-server=" + server}
}

// glue returns a file from Go's WebAssembly support.
func glue(t *testing.T, name string) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "lib", "wasm", name)
}

func runInNode(t *testing.T, program string, args ...string) string {
	t.Helper()
	node := find(t, "node", "nodejs")
	install(t)
	command := []string{"--stack-size=8192", "--require", "./node/websocket.cjs", glue(t, "wasm_exec_node.js"), program}
	cmd := exec.Command(node, append(command, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("Node: %v", err)
	}
	return string(out)
}

// wasmPage runs the program. Once it has ended, output is what it printed.
const wasmPage = `<!doctype html><title>wasm</title><script src="/wasm_exec.js"></script><script>
var output = null, printed = "";
const decoder = new TextDecoder();
fs.writeSync = (fd, bytes) => (printed += decoder.decode(bytes, { stream: true }), bytes.length);
async function run(args) {
	const go = new Go();
	go.argv = ["client", ...args];
	const { instance } = await WebAssembly.instantiateStreaming(fetch("/client.wasm"), go.importObject);
	await go.run(instance);
	output = printed;
}
</script>`

func runInChromium(t *testing.T, program, server string) (output string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, wasmPage)
	})
	mux.HandleFunc("/client.wasm", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, program) })
	mux.HandleFunc("/wasm_exec.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, glue(t, "wasm_exec.js")) })
	host := httptest.NewServer(mux)
	defer host.Close()
	page := startBrowser(t).open(t, host.URL)
	args, _ := json.Marshal(wasmArgs(server))
	page.eval("run("+string(args)+"); undefined", nil)
	for deadline := time.Now().Add(wasmTimeout); time.Now().Before(deadline); {
		var ended *string
		page.eval(`await new Promise(look => setTimeout(() => look(output), 500))`, &ended)
		if ended != nil {
			return *ended
		}
	}
	page.eval("printed", &output)
	t.Errorf("the program is running for %v", wasmTimeout)
	return output
}

// A wasmPeer serves a WebAssembly client: the paths of peer and these. The id of the query names a connection.
//
//	/abort   sends "before", and after a message ends without a close frame
//	/deaf    does not read until /hear?id= is asked for; then reads to the first text, and tells how many binary
//	         messages came before it in the order of the numbers they begin with
//	/ended   waits until the connection has ended and tells how: the code and reason of its close frame, or "lost"
//	/hang    never answers the handshake
//	/refuse  answers 403
type wasmPeer struct {
	mu     sync.Mutex // guards the map
	events map[string]chan string
}

func newWasmPeer() *wasmPeer { return &wasmPeer{events: make(map[string]chan string)} }

func serveWasm(t *testing.T, p *wasmPeer) string {
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "http", "ws", 1)
}

// event returns the channel for an event of the connection that r names.
func (p *wasmPeer) event(name string, r *http.Request) chan string {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := name + r.URL.Query().Get("id")
	if p.events[key] == nil {
		p.events[key] = make(chan string, 1)
	}
	return p.events[key]
}

func (p *wasmPeer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/hang":
		<-r.Context().Done()
		return
	case "/refuse":
		http.Error(w, "not today", http.StatusForbidden)
		return
	}
	serve := map[string]func(*websocket.Conn, *http.Request) error{
		"/echo": echo, "/close": closeAtOnce, "/parts": sendParts, "/ping": reportPing,
		"/abort": abort, "/deaf": p.deaf, "/hear": p.hear, "/ended": p.ended,
	}[r.URL.Path]
	opts := &websocket.Options{
		MaxMessageSize: 32 << 20,
		Subprotocols:   []string{"two"},
		Origins:        []string{"127.0.0.1:*"}, // the page is from another server
	}
	websocket.Handler(opts, func(c *websocket.Conn, r *http.Request) {
		err := serve(c, r)
		if r.URL.Query().Has("id") && (r.URL.Path == "/echo" || r.URL.Path == "/deaf") {
			p.event("ended", r) <- describeEnd(err)
		}
	}).ServeHTTP(w, r)
}

func describeEnd(err error) string {
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		return strings.TrimSpace(fmt.Sprintf("%d %s", int(closed.Code), closed.Reason))
	}
	return "lost"
}

func (p *wasmPeer) ended(c *websocket.Conn, r *http.Request) error {
	return tell(c, <-p.event("ended", r))
}

func (p *wasmPeer) hear(c *websocket.Conn, r *http.Request) error {
	p.event("hear", r) <- ""
	return tell(c, "")
}

func tell(c *websocket.Conn, text string) error {
	if err := c.Write(context.Background(), websocket.TextMessage, []byte(text)); err != nil {
		return err
	}
	return c.Close(websocket.StatusNormalClosure, "")
}

func abort(c *websocket.Conn, r *http.Request) error {
	err := c.Write(context.Background(), websocket.TextMessage, []byte("before"))
	c.Read(context.Background()) // the answer says that the peer has read: a reset may discard bytes that it has not
	c.CloseNow()
	return err
}

func (p *wasmPeer) deaf(c *websocket.Conn, r *http.Request) error {
	select {
	case <-p.event("hear", r):
	case <-time.After(patience):
	}
	ordered := 0
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			return err
		}
		if m.Type == websocket.TextMessage {
			return tell(c, fmt.Sprint(ordered))
		}
		if bytes.HasPrefix(m.Data, fmt.Appendf(nil, "%8d", ordered)) {
			ordered++
		}
	}
	return nil
}
