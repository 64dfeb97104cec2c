package interop

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/websocket"
)

// A browser is a headless Chromium and the connection to its DevTools.
type browser struct {
	conn    *websocket.Conn
	mu      sync.Mutex
	calls   int
	waiting map[int]chan reply
}

type reply struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// A tab is a page of a browser.
type tab struct {
	*browser
	t       *testing.T
	target  string
	session string
}

func startBrowser(t *testing.T, flags ...string) *browser {
	t.Helper()
	program := find(t, "chromium", "chromium-browser", "google-chrome")
	profile := t.TempDir()
	cmd := exec.Command(program, append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir=" + profile, "--remote-debugging-port=0"}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end all its processes together
	stderr := newLines()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		os.RemoveAll(filepath.Join(profile, "Default")) // a process that is ending may still write there
	})

	const announce = "DevTools listening on "
	for {
		line := receive(t, stderr.lines, "DevTools address on Chromium's stderr")
		if url, ok := strings.CutPrefix(line, announce); ok {
			b := &browser{waiting: make(map[int]chan reply)}
			b.conn = dial(t, strings.TrimSpace(url), &websocket.Options{MaxMessageSize: 64 << 20})
			go b.read()
			return b
		}
	}
}

// read passes each answer to its call. There are no events, because none are enabled.
func (b *browser) read() {
	for m, err := range b.conn.Messages(context.Background()) {
		var answer struct {
			ID int
			reply
		}
		if err != nil || json.Unmarshal(m.Data, &answer) != nil {
			break
		}
		b.mu.Lock()
		ch := b.waiting[answer.ID]
		delete(b.waiting, answer.ID)
		b.mu.Unlock()
		if ch != nil {
			ch <- answer.reply
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ch := range b.waiting {
		close(ch)
	}
}

// call calls a method of the DevTools protocol; session is empty for the browser's own.
func (b *browser) call(t *testing.T, session, method string, params, result any) {
	t.Helper()
	b.mu.Lock()
	b.calls++
	id, ch := b.calls, make(chan reply, 1)
	b.waiting[id] = ch
	b.mu.Unlock()
	request := map[string]any{"id": id, "method": method, "params": params}
	if session != "" {
		request["sessionId"] = session
	}
	if err := b.conn.WriteJSON(patient(t), request); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	answer := receive(t, ch, "answer to "+method)
	if answer.Error != nil {
		t.Fatalf("%s: %s", method, answer.Error.Message)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		t.Fatalf("%s: %v in %q", method, err, answer.Result)
	}
}

func (b *browser) open(t *testing.T, url string) *tab {
	t.Helper()
	page := &tab{browser: b, t: t}
	var created struct{ TargetID, SessionID string }
	b.call(t, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &created)
	b.call(t, "", "Target.attachToTarget", map[string]any{"targetId": created.TargetID, "flatten": true}, &created)
	page.target, page.session = created.TargetID, created.SessionID
	page.call(t, page.session, "Page.navigate", map[string]any{"url": url}, nil)
	page.until(`document.readyState === "complete"`)
	return page
}

// front makes p the visible tab. Chromium does not lay out the others.
func (p *tab) front() {
	p.t.Helper()
	p.call(p.t, p.session, "Page.bringToFront", map[string]any{}, nil)
}

func (p *tab) close() {
	p.call(p.t, "", "Target.closeTarget", map[string]any{"targetId": p.target}, nil)
}

// eval runs JavaScript in the page, awaits its value and decodes it into result.
func (p *tab) eval(js string, result any) {
	p.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.call(p.t, p.session, "Runtime.evaluate", map[string]any{
		"expression": js, "awaitPromise": true, "returnByValue": true, "replMode": true,
	}, &answer)
	if e := answer.ExceptionDetails; e != nil {
		p.t.Fatalf("%s %s in %s", e.Text, e.Exception.Description, js)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(answer.Result.Value, result); err != nil {
		p.t.Fatalf("%v: %s from %s", err, answer.Result.Value, js)
	}
}

// until waits until the condition holds in the page.
func (p *tab) until(condition string) {
	p.t.Helper()
	p.eval(fmt.Sprintf(`await new Promise((done, fail) => {
		const started = performance.now();
		const look = () => {
			if (%s) return done();
			if (performance.now() - started > %d) return fail(new Error("waited in vain; the page says: " + document.body.innerText));
			setTimeout(look, 20);
		};
		look();
	})`, condition, patience.Milliseconds()/2), nil)
}

// screenshot writes a picture of the page to the directory in the environment variable SCREENSHOTS, if it is set.
func (p *tab) screenshot(name string) {
	p.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	p.front()
	var answer struct{ Data string }
	p.call(p.t, p.session, "Page.captureScreenshot", map[string]any{"format": "png"}, &answer)
	png, err := base64.StdEncoding.DecodeString(answer.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Error(err)
	}
}

// lines is an io.Writer that splits its input into lines.
type lines struct {
	lines chan string
	rest  []byte
}

func newLines() *lines { return &lines{lines: make(chan string, 1000)} }

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		select {
		case l.lines <- string(line):
		default: // nothing reads the lines any longer
		}
		l.rest = rest
	}
}
