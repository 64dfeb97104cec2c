package interop

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A chat is a process that runs examples/chat.
type chat struct {
	addr  string
	cmd   *exec.Cmd
	ended chan error
}

func buildChat(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "chat")
	build := exec.Command("go", "build", "-o", program, "./examples/chat")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

func startChat(t *testing.T, program, addr string) *chat {
	t.Helper()
	c := &chat{cmd: exec.Command(program, "-addr", addr), ended: make(chan error, 1)}
	stdout, stderr := newLines(), newLines()
	c.cmd.Stdout, c.cmd.Stderr = stdout, stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() { c.cmd.Process.Kill(); <-c.ended })
	said := regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(receive(t, stdout.lines, "address of the chat"))
	if said == nil {
		t.Fatal("the chat did not print its address")
	}
	c.addr = said[1]
	return c
}

// person opens the page and joins. In the page, closes lists the close events of its sockets, and sockets counts them.
func person(t *testing.T, b *browser, addr, room, name string) *tab {
	t.Helper()
	p := visitor(t, b, "http://"+addr+"/#room="+room)
	p.join(name)
	p.connected()
	return p
}

// visitor opens the page and does not join. Its random delays are the shortest.
func visitor(t *testing.T, b *browser, url string) *tab {
	t.Helper()
	p := b.open(t, url)
	p.eval(`
		var closes = [], sockets = 0, policy = [];
		addEventListener("securitypolicyviolation", e => policy.push(e.violatedDirective + " " + e.blockedURI));
		window.WebSocket = class extends WebSocket {
			constructor(...args) {
				super(...args);
				sockets++;
				this.addEventListener("close", e => closes.push(e.code + " " + e.reason));
			}
		};
		Math.random = () => 0;
		undefined`, nil)
	return p
}

func (p *tab) join(name string) {
	p.t.Helper()
	p.eval(`document.getElementById("name").value = `+quote(name)+`; document.getElementById("join").requestSubmit(); undefined`, nil)
}

// quote returns s as a JavaScript string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	return string(b)
}

func (p *tab) connected() {
	p.t.Helper()
	p.until(`document.getElementById("status").dataset.state === "on"`)
}

func (p *tab) say(text string) {
	p.t.Helper()
	p.eval(`document.getElementById("text").value = `+quote(text)+`; document.getElementById("compose").requestSubmit(); undefined`, nil)
}

// sees waits for a message and fails the test if the page shows it more than once.
func (p *tab) sees(text string) {
	p.t.Helper()
	count := `[...document.querySelectorAll("#log .body")].filter(e => e.textContent === ` + quote(text) + `).length`
	p.until(count + " > 0")
	var n int
	p.eval(count, &n)
	if n != 1 {
		p.t.Errorf("the page shows %q %d times", text, n)
	}
}

func (p *tab) seesPeople(names string) {
	p.t.Helper()
	p.until(`[...document.querySelectorAll("#people li")].map(e => e.textContent).join() === ` + quote(names))
}

func TestChatPage_TalksInTwoTabs(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "Ann")
	bob := person(t, b, server.addr, "lobby", "Bob")
	eve := person(t, b, server.addr, "cellar", "Eve")
	ann.seesPeople("Ann (you),Bob")
	bob.seesPeople("Ann,Bob (you)")
	eve.seesPeople("Eve (you)")

	for _, line := range []struct {
		from *tab
		text string
	}{
		{ann, "Hi Bob! Does this work?"},
		{bob, "It does. ✓ Überall 👋"},
		{bob, "<img src=x onerror='document.title=1'><b>bold?</b>"},
		{ann, "Text stays text.\nIn two lines, too."},
	} {
		line.from.say(line.text)
		ann.sees(line.text)
		bob.sees(line.text)
	}
	eve.say("Nobody here…")
	eve.sees("Nobody here…")
	var heard int
	eve.eval(`document.querySelectorAll("#log .body").length`, &heard)
	if heard != 1 {
		t.Errorf("the other room heard %d messages, want its own alone", heard)
	}
	ann.screenshot("chat-ann")
	ann.call(t, ann.session, "Emulation.setDeviceMetricsOverride", map[string]any{
		"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true,
	}, nil)
	ann.screenshot("chat-narrow")
	bob.screenshot("chat-bob")

	bob.eval(`document.getElementById("leave").click()`, nil)
	ann.seesPeople("Ann (you)")
	bob.until(`closes.join() === "1000 "`)
	for _, p := range []*tab{ann, bob, eve} {
		var violations []string
		if p.eval(`policy`, &violations); len(violations) > 0 {
			t.Errorf("the page breaks its own policy: %q", violations)
		}
	}
}

func TestChat_ShowsItsMetrics(t *testing.T) {
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	for path, want := range map[string]string{
		"/metrics":    "\nchat_connections 0\n",
		"/debug/vars": `"chat_connections":0`,
	} {
		res, err := http.Get("http://" + server.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s has no %q: %s, %v", path, want, body, err)
		}
	}
}

func TestChatPage_Reconnects_AfterADroppedConnection(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	wire := newCutter(t, server.addr)
	ann := person(t, b, wire.addr, "lobby", "Ann")
	bob := person(t, b, server.addr, "lobby", "Bob")
	ann.say("before")
	ann.sees("before")

	wire.cut()
	bob.seesPeople("Bob (you)")
	ann.until(`document.getElementById("status").textContent.startsWith("Connection lost")`)
	ann.screenshot("chat-lost")
	ann.say("said while offline")
	bob.say("missed")
	bob.sees("missed")
	wire.mend()

	ann.connected()
	ann.until(`closes[0] === "1006 "`)
	bob.seesPeople("Ann,Bob (you)")
	ann.sees("before")
	ann.sees("missed")
	ann.eval(`document.getElementById("compose").requestSubmit()`, nil) // the text was kept
	bob.sees("said while offline")
	ann.sees("said while offline")
}

func TestChatPage_Reconnects_AfterARestart(t *testing.T) {
	b := startBrowser(t)
	program := buildChat(t)
	server := startChat(t, program, "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "Ann")
	bob := person(t, b, server.addr, "lobby", "Bob")
	ann.seesPeople("Ann (you),Bob")

	if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, server.ended, "end of the chat"); err != nil {
		t.Errorf("the chat ended with %v", err)
	}
	ann.until(`closes[0] === "1001 the server restarts"`)
	bob.until(`closes[0] === "1001 the server restarts"`)

	startChat(t, program, server.addr)
	ann.connected()
	bob.connected()
	ann.say("still here")
	bob.sees("still here")
}

// A cutter relays TCP connections until it cuts them. It then accepts no more until it is mended.
type cutter struct {
	addr, target string
	mu           sync.Mutex
	broken       bool
	conns        []net.Conn
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cutter{addr: ln.Addr().String(), target: target}
	t.Cleanup(func() { ln.Close(); w.cut() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go w.pass(nc)
		}
	}()
	return w
}

func (w *cutter) pass(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.target)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	if w.broken {
		w.mu.Unlock()
		return
	}
	w.conns = append(w.conns, near, far)
	w.mu.Unlock()
	go func() {
		defer near.Close()
		io.Copy(near, far)
	}()
	io.Copy(far, near)
}

func (w *cutter) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = true
	for _, nc := range w.conns {
		nc.Close()
	}
	w.conns = nil
}

func (w *cutter) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = false
}
