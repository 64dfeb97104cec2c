package interop

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// startAuth runs examples/auth and returns its URL and the password of its user.
func startAuth(t *testing.T, flags ...string) (url, password string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "auth")
	build := exec.Command("go", "build", "-o", program, "./examples/auth")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(program, append([]string{"-addr", "127.0.0.1:0"}, flags...)...)
	stdout := newLines()
	cmd.Stdout = stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	said := regexp.MustCompile(`(https?://\S+) .* password (\S+)`).FindStringSubmatch(receive(t, stdout.lines, "address of the server"))
	if said == nil {
		t.Fatal("the server did not print its address")
	}
	return said[1], said[2]
}

func TestChromium_LogsInFirst(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	for name, flags := range map[string][]string{
		"ws": nil, "wss": {"-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem")},
	} {
		t.Run(name, func(t *testing.T) {
			url, password := startAuth(t, flags...)
			b := startBrowser(t, "--ignore-certificate-errors")
			for _, by := range []string{"token", "cookie"} {
				p := b.open(t, url)
				connect := `document.querySelector("button[value=` + by + `]").click()`
				p.eval(`document.querySelector("[name=password]").value = "wrong"; `+connect, nil)
				p.until(`document.getElementById("log").textContent.includes("401: wrong user or password")`)
				p.eval(`await new Promise(done => new WebSocket(new URL("ws", location.href.replace("http", "ws")), ["echo"]).onclose = e => {
					window.code = e.code; done();
				})`, nil)
				p.expect(`code === 1006`) // without a login: the page does not see the 401
				p.eval(`document.querySelector("[name=password]").value = `+quote(password)+`; `+connect, nil)
				p.until(`document.getElementById("log").textContent.includes("ann: hello by ` + by + `")`)
				p.screenshot("auth-" + by)
				p.close()
			}
		})
	}
}
