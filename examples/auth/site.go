package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"log"
	"net/http"
	"strings"
	"time"

	"example.com/websocket"
)

//go:embed page.html
var page []byte

const (
	lifetime    = time.Hour // of a login, and of the connections made with it
	cookieName  = "session"
	subprotocol = "echo"
	tokenPrefix = "token." // of the subprotocol that is a token
)

// statusExpired closes a connection whose login has expired.
const statusExpired websocket.StatusCode = 4001

// A site logs users in and serves them a WebSocket.
type site struct {
	check    func(user, password string) bool
	key      []byte // signs the tokens; new on each start, so a restart logs everybody out
	opts     websocket.Options
	everyone websocket.Group
}

func newSite(check func(user, password string) bool) *site {
	s := &site{check: check, key: make([]byte, 32)}
	rand.Read(s.key)
	s.opts = websocket.Options{
		Subprotocols:   []string{subprotocol}, // the token that a page also offers is never chosen
		MaxMessageSize: 64 << 10,
		Group:          &s.everyone,
		ErrorLog:       log.Default(), // why a handshake was refused
	}
	return s
}

func (s *site) routes() http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.Handle("POST /login", sameOrigin.Handler(http.HandlerFunc(s.login)))
	mux.Handle("POST /token", sameOrigin.Handler(http.HandlerFunc(s.token)))
	mux.HandleFunc("/ws", s.connect) // GET, and over HTTP/2 CONNECT
	return mux
}

func servePage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(page)
}

// login sets the cookie. HttpOnly hides it from scripts. SameSite and Upgrade's origin check keep the pages of other
// sites from using it.
func (s *site) login(w http.ResponseWriter, r *http.Request) {
	token, ok := s.issue(w, r)
	if !ok {
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: token, Path: "/", MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
	w.WriteHeader(http.StatusNoContent)
}

// token returns a token as text.
func (s *site) token(w http.ResponseWriter, r *http.Request) {
	if token, ok := s.issue(w, r); ok {
		w.Header().Set("Cache-Control", "no-store")
		w.Write([]byte(token))
	}
}

// issue returns a token for the user and password in the form, or answers the request itself.
func (s *site) issue(w http.ResponseWriter, r *http.Request) (token string, ok bool) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	user := r.PostFormValue("user")
	if !s.check(user, r.PostFormValue("password")) {
		http.Error(w, "wrong user or password", http.StatusUnauthorized)
		return "", false
	}
	return sign(s.key, identity{user, time.Now().Add(lifetime)}), true
}

// connect upgrades the requests of users. A browser hides the 401 from the page, which only sees code 1006. A page
// should therefore log in before it connects, and again if a connection cannot be opened.
func (s *site) connect(w http.ResponseWriter, r *http.Request) {
	id, err := verify(s.key, presented(r))
	if err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	websocket.Handler(&s.opts, func(c *websocket.Conn, r *http.Request) { talk(c, id) }).ServeHTTP(w, r)
}

// presented returns the token in the request, from the Authorization header, which a page cannot set, the subprotocols,
// or the cookie.
func presented(r *http.Request) string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	for protocol := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if token, ok := strings.CutPrefix(strings.TrimSpace(protocol), tokenPrefix); ok {
			return token
		}
	}
	if cookie, err := r.Cookie(cookieName); err == nil {
		return cookie.Value
	}
	return ""
}

// talk echoes what the user says, until the login expires.
func talk(c *websocket.Conn, id identity) {
	expiry := time.AfterFunc(time.Until(id.expires), func() { c.Close(statusExpired, "log in again") })
	defer expiry.Stop()
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err == nil {
			err = c.Write(ctx, m.Type, append([]byte(id.user+": "), m.Data...))
		}
		if err != nil {
			log.Printf("%s: %v", id.user, err)
			return
		}
	}
}
