package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/websocket"
)

// A visitor is a browser or a program that uses a site.
type visitor struct {
	t      *testing.T
	url    string
	client *http.Client
}

func visit(t *testing.T, s *site, start func(http.Handler) *httptest.Server) *visitor {
	srv := start(s.routes())
	t.Cleanup(srv.Close)
	client := srv.Client() // trusts the certificate of srv
	client.Jar, _ = cookiejar.New(nil)
	return &visitor{t, srv.URL, client}
}

func newTestSite() *site { return newSite(onlyUser("ann", "secret")) }

// post posts the user and the password, and returns the status and the body of the response.
func (v *visitor) post(path, password string, header http.Header) (int, string) {
	v.t.Helper()
	form := url.Values{"user": {"ann"}, "password": {password}}
	r, err := http.NewRequest("POST", v.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name, values := range header {
		r.Header[name] = values
	}
	res, err := v.client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// dial opens the WebSocket and returns the status of the handshake.
func (v *visitor) dial(opts websocket.Options) (*websocket.Conn, int) {
	v.t.Helper()
	opts.HTTPClient = v.client
	c, err := websocket.Dial(v.t.Context(), strings.Replace(v.url, "http", "ws", 1)+"/ws", &opts)
	var refused *websocket.HandshakeError
	if errors.As(err, &refused) {
		return nil, refused.StatusCode
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { c.CloseNow() })
	return c, http.StatusSwitchingProtocols
}

// enters opens the WebSocket and expects an echo with the user's name.
func (v *visitor) enters(opts websocket.Options) *websocket.Conn {
	v.t.Helper()
	c, status := v.dial(opts)
	if c == nil {
		v.t.Fatalf("refused with %d", status)
	}
	if err := c.Write(v.t.Context(), websocket.TextMessage, []byte("hello")); err != nil {
		v.t.Fatal(err)
	}
	if _, p, err := c.Read(v.t.Context()); string(p) != "ann: hello" || err != nil {
		v.t.Fatalf("read %q, %v", p, err)
	}
	return c
}

func (v *visitor) isRefused(opts websocket.Options, want int) {
	v.t.Helper()
	if _, got := v.dial(opts); got != want {
		v.t.Errorf("status %d, want %d", got, want)
	}
}

func from(origin string) websocket.Options {
	return websocket.Options{Header: http.Header{"Origin": {origin}}}
}

func TestSite_LetsIn_ByCookie(t *testing.T) {
	for name, start := range map[string]func(http.Handler) *httptest.Server{
		"ws": httptest.NewServer, "wss": httptest.NewTLSServer,
	} {
		t.Run(name, func(t *testing.T) {
			v := visit(t, newTestSite(), start)
			v.isRefused(websocket.Options{}, http.StatusUnauthorized)
			if status, _ := v.post("/login", "wrong", nil); status != http.StatusUnauthorized {
				t.Errorf("a wrong password: status %d", status)
			}
			v.isRefused(websocket.Options{}, http.StatusUnauthorized)
			if status, body := v.post("/login", "secret", nil); status != http.StatusNoContent {
				t.Fatalf("the password: status %d: %s", status, body)
			}
			v.enters(websocket.Options{})
			v.enters(from(v.url))
			v.isRefused(from("https://evil.example"), http.StatusForbidden) // another site's page, with the cookie
		})
	}
}

func TestSite_HidesItsCookie(t *testing.T) {
	for header, secure := range map[string]bool{"": false, "http": false, "https": true} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/login", strings.NewReader("user=ann&password=secret"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("X-Forwarded-Proto", header)
		newTestSite().routes().ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 {
			t.Fatalf("%d cookies, status %d", len(cookies), w.Code)
		}
		if c := cookies[0]; !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure != secure {
			t.Errorf("X-Forwarded-Proto %q: %v", header, c)
		}
	}
}

func TestSite_LetsIn_ByTokenInTheSubprotocol(t *testing.T) {
	v := visit(t, newTestSite(), httptest.NewServer)
	status, token := v.post("/token", "secret", nil)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, token)
	}
	c := v.enters(websocket.Options{Subprotocols: []string{"echo", "token." + token}})
	if c.Subprotocol() != "echo" {
		t.Errorf("the subprotocol is %q", c.Subprotocol())
	}
	v.isRefused(websocket.Options{Subprotocols: []string{"echo", "token." + token[1:]}}, http.StatusUnauthorized)
	v.isRefused(websocket.Options{Subprotocols: []string{"echo"}}, http.StatusUnauthorized)
}

func TestSite_LetsIn_ByAuthorization(t *testing.T) {
	v := visit(t, newTestSite(), httptest.NewServer)
	_, token := v.post("/token", "secret", nil)
	v.enters(websocket.Options{Header: http.Header{"Authorization": {"Bearer " + token}}})
	v.isRefused(websocket.Options{Header: http.Header{"Authorization": {"Bearer x" + token}}}, http.StatusUnauthorized)
	v.isRefused(websocket.Options{Header: http.Header{"Authorization": {token}}}, http.StatusUnauthorized)
}

func TestSite_LetsIn_PagesOfADevelopmentServer(t *testing.T) {
	s := newTestSite()
	s.opts.Origins = []string{"http://localhost:5173"}
	v := visit(t, s, httptest.NewServer)
	v.post("/login", "secret", nil)
	v.enters(from("http://localhost:5173"))
	v.enters(from(v.url))
	for _, origin := range []string{"http://localhost:5174", "https://localhost:5173", "http://localhost", "http://evil.example:5173"} {
		v.isRefused(from(origin), http.StatusForbidden)
	}
}

func TestSite_RefusesTheForms_OfOtherSites(t *testing.T) {
	v := visit(t, newTestSite(), httptest.NewServer)
	for _, path := range []string{"/login", "/token"} {
		for origin, want := range map[string]bool{v.url: true, "https://evil.example": false} {
			status, _ := v.post(path, "secret", http.Header{"Origin": {origin}})
			if (status/100 == 2) != want {
				t.Errorf("%s from %s: status %d", path, origin, status)
			}
		}
	}
}

func TestSite_ReadsNoMore_ThanALoginNeeds(t *testing.T) {
	for size, want := range map[int]int{1 << 10: http.StatusNoContent, 1 << 20: http.StatusUnauthorized} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/login", strings.NewReader("user=ann&password=secret&more="+strings.Repeat("x", size)))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		newTestSite().routes().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("a form of %d bytes: status %d, want %d", size, w.Code, want)
		}
	}
}

func TestSite_ClosesTheConnection_WhenTheLoginExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := websocket.Pipe(nil, nil)
		began := time.Now()
		go talk(server, identity{"ann", began.Add(lifetime)})
		_, _, err := client.Read(t.Context())
		if !errors.Is(err, statusExpired) || time.Since(began) != lifetime {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestServe_SpeaksTLSAndDrains(t *testing.T) {
	trusted := httptest.NewTLSServer(nil) // for its certificate
	defer trusted.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newTestSite()
	srv := &http.Server{Handler: s.routes(), TLSConfig: &tls.Config{Certificates: trusted.TLS.Certificates}}
	done := make(chan error, 1)
	go func() { done <- serve(ctx, srv, ln, &s.everyone) }()

	v := &visitor{t, "https://" + ln.Addr().String(), trusted.Client()}
	_, token := v.post("/token", "secret", nil)
	c := v.enters(websocket.Options{Header: http.Header{"Authorization": {"Bearer " + token}}})
	read := make(chan error, 1)
	go func() {
		_, _, err := c.Read(context.Background())
		read <- err
	}()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-read; !errors.Is(err, websocket.StatusGoingAway) {
		t.Errorf("closed with %v, want 1001", err)
	}
}

func TestServe_ReturnsTheError_OfItsListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := run(t.Context(), ln.Addr().String(), "", "", ""); err == nil {
		t.Error("a port that is taken is no error")
	}
	if err := run(t.Context(), "127.0.0.1:0", "missing.pem", "missing.pem", ""); err == nil {
		t.Error("a certificate that is missing is no error")
	}
}
