package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/websocket"
)

// nginx.conf is the configuration in README.md. The tests replace only its addresses and, for TLS, the listen line.
func TestReadmeShowsNginxConf(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(readme, conf) {
		t.Error("README.md does not show nginx.conf as it is here")
	}
}

// A front is an nginx that passes requests on to a peer.
type front struct {
	*peer
	http, ws string            // its addresses
	opts     websocket.Options // of a client that trusts it
}

func startNginx(t *testing.T, secure bool, opts *websocket.Options) *front {
	t.Helper()
	program := find(t, "nginx", "/usr/sbin/nginx")
	peer, upstream := startPeer(t, opts)
	listen := freeAddr(t)
	f := &front{peer: peer, http: "http://" + listen, ws: "ws://" + listen}
	f.opts.HTTPClient = &http.Client{Transport: &http.Transport{}}
	dir := t.TempDir()
	line := "listen " + listen + ";"
	if secure {
		pool := writeCertificate(t, dir)
		line = fmt.Sprintf("listen %s ssl; ssl_certificate %s/cert.pem; ssl_certificate_key %[2]s/key.pem;", listen, dir)
		f.http, f.ws = "https://"+listen, "wss://"+listen
		f.opts.HTTPClient.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	conf := writeConf(t, dir, line, strings.TrimPrefix(upstream, "ws://"))

	cmd := exec.Command(program, "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	await(t, listen)
	return f
}

// writeConf writes a complete configuration that includes nginx.conf with the addresses of the test.
func writeConf(t *testing.T, dir, listen, upstream string) string {
	t.Helper()
	b, err := os.ReadFile("nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	shown := string(b)
	for from, to := range map[string]string{"listen 80;": listen, "127.0.0.1:8080": upstream} {
		if strings.Count(shown, from) != 1 {
			t.Fatalf("nginx.conf should have %q once", from)
		}
		shown = strings.Replace(shown, from, to, 1)
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	paths := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		paths += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf := fmt.Sprintf("%s\npid %s/pid;\nworker_processes 1;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n", user, dir, paths, shown)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// await waits until a server listens at addr.
func await(t *testing.T, addr string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if nc, err := net.Dial("tcp", addr); err == nil {
			nc.Close()
			return
		}
	}
	t.Fatalf("no server listens at %s", addr)
}

func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return pool
}

func TestBehindNginx(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			f := startNginx(t, secure, &websocket.Options{Compression: &websocket.Compression{}, MaxMessageSize: 2 << 20})
			f.opts.Compression = &websocket.Compression{ContextTakeover: true}
			f.opts.MaxMessageSize = 2 << 20
			t.Run("messages and our close", f.testEcho)
			t.Run("the server's close", f.testClosed)
			t.Run("pings", f.testPing)
			t.Run("a lost client is seen", f.testLost)
			t.Run("origins", f.testOrigins)
			t.Run("Chromium", f.testChromium)
		})
	}
}

func (f *front) testEcho(t *testing.T) {
	c := dial(t, f.ws+"/echo", &f.opts)
	exchange(t, c, samples)
	if err := c.Close(3001, "bye"); err != nil {
		t.Errorf("Close: %v", err)
	}
	if end := receive(t, f.arrivals, "end of the connection").end; !closedWith(end, websocket.CloseError{Code: 3001, Reason: "bye"}) {
		t.Errorf("the server's read ended with %v", end)
	}
}

func (f *front) testClosed(t *testing.T) {
	c := dial(t, f.ws+"/close?code=4000&reason=no", &f.opts)
	if _, _, err := c.Read(patient(t)); !closedWith(err, websocket.CloseError{Code: 4000, Reason: "no"}) {
		t.Errorf("closed with %v", err)
	}
	if end := receive(t, f.arrivals, "end of the connection").end; end != nil {
		t.Errorf("the server's Close: %v", end)
	}
}

func (f *front) testPing(t *testing.T) {
	c := dial(t, f.ws+"/ping", &f.opts)
	var told struct {
		RTT    time.Duration
		Failed bool
	}
	if err := c.ReadJSON(patient(t), &told); err != nil || told.Failed || told.RTT <= 0 {
		t.Errorf("the server's ping: %+v, %v", told, err)
	}
	c.Close(1000, "")
	receive(t, f.arrivals, "end of the connection")
}

func (f *front) testLost(t *testing.T) {
	c := dial(t, f.ws+"/echo", &f.opts)
	exchange(t, c, samples[:1])
	c.CloseNow()
	if end := receive(t, f.arrivals, "end of the connection").end; !errors.Is(end, websocket.StatusAbnormalClosure) {
		t.Errorf("the server's read ended with %v", end)
	}
}

func (f *front) testOrigins(t *testing.T) {
	for origin, want := range map[string]int{f.http: http.StatusSwitchingProtocols, "https://elsewhere.example": http.StatusForbidden} {
		opts := f.opts
		opts.Header = http.Header{"Origin": {origin}}
		c, err := websocket.Dial(patient(t), f.ws+"/echo", &opts)
		got := http.StatusSwitchingProtocols
		var refused *websocket.HandshakeError
		if errors.As(err, &refused) {
			got = refused.StatusCode
		}
		if got != want {
			t.Errorf("origin %s: %v, want status %d", origin, err, want)
		}
		if err == nil {
			c.CloseNow()
			receive(t, f.arrivals, "end of the connection")
		}
	}
}

func (f *front) testChromium(t *testing.T) {
	page := startBrowser(t, "--ignore-certificate-errors").open(t, f.http+"/")
	got := page.converse(`{path: "echo", close: [3001, "bye"]}`)
	if !got.Opened || got.Failed || !got.Clean || got.Code != 3001 || !strings.HasPrefix(got.Extensions, "permessage-deflate") {
		t.Errorf("the page saw %+v", got)
	}
	receive(t, f.arrivals, "end of the connection")
}
