package interop

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// buildWasmChat is buildChat after the README's command for the client in Go.
func buildWasmChat(t *testing.T) string {
	t.Helper()
	generate := exec.Command("go", "generate", "./examples/chat")
	generate.Dir = filepath.Join("..", "..")
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	return buildChat(t)
}

// gopher opens the page whose client is Go, and joins.
func gopher(t *testing.T, b *browser, addr, room, name string) *tab {
	t.Helper()
	p := b.open(t, "http://"+addr+"/wasm/#room="+room)
	p.eval(`var policy = []; addEventListener("securitypolicyviolation", e => policy.push(e.violatedDirective + " " + e.blockedURI)); undefined`, nil)
	p.until(`document.getElementById("room").value === ` + quote(room)) // the program runs
	p.submitName(name)
	return p
}

func (p *tab) submitName(name string) {
	p.t.Helper()
	p.eval(`document.getElementById("name").value = `+quote(name)+`; document.getElementById("join").requestSubmit(); undefined`, nil)
}

func TestChromiumRunsTheClientInGo(t *testing.T) {
	b := startBrowser(t)
	program := buildWasmChat(t)
	server := startChat(t, program, "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "Ann")
	bob := gopher(t, b, server.addr, "lobby", strings.Repeat("Bob", 11))
	bob.until(`document.getElementById("refusal").textContent !== ""`) // the name is too long
	bob.submitName("Bob")
	bob.connected()
	ann.seesPeople("Ann (you),Bob")
	bob.seesPeople("Ann,Bob (you)")

	for _, line := range []struct {
		from *tab
		text string
	}{
		{ann, "Hi Bob! Are you a gopher?"},
		{bob, "I am. ✓ Überall 👋"},
		{bob, "<img src=x onerror='document.title=1'><b>bold?</b>"},
	} {
		line.from.say(line.text)
		ann.sees(line.text)
		bob.sees(line.text)
	}
	bob.screenshot("chat-gopher")

	if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bob.until(`document.getElementById("status").textContent === "Connection lost: the server restarts"`)
	receive(t, server.ended, "end of the chat")
	startChat(t, program, server.addr)
	ann.connected()
	bob.connected()
	bob.say("still here")
	ann.sees("still here")

	bob.eval(`document.getElementById("leave").click()`, nil)
	ann.seesPeople("Ann (you)")
	var violations []string
	if bob.eval(`policy`, &violations); len(violations) > 0 {
		t.Errorf("the page breaks its own policy: %q", violations)
	}
}
