package main

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCookie_IsAccepted_UntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := signer{[]byte("key")}
		p := Person{"1", "Zoë Ω 9"}
		r := httptest.NewRequest("GET", "/ws", nil)
		r.AddCookie(s.cookie(p, time.Now().Add(time.Hour)))
		if got, err := s.authenticate(r); got != p || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
		time.Sleep(time.Hour - time.Second)
		if _, err := s.authenticate(r); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got, err := s.authenticate(r); err == nil {
			t.Errorf("an expired cookie is accepted as %v", got)
		}
	})
}

func TestCookie_IsRefused_WhenItIsForged(t *testing.T) {
	s := signer{[]byte("key")}
	later := time.Now().Add(time.Hour)
	good := s.cookie(Person{"1", "Ann"}, later).Value
	value, mac, _ := strings.Cut(good, ".")
	other := signer{[]byte("another")}.cookie(Person{"1", "Ann"}, later).Value
	eve := base64.RawURLEncoding.EncodeToString([]byte(`{"id":"1","name":"Eve","expires":99999999999}`))
	signedJunk := "junk." + s.sign("junk")
	for _, forged := range []string{"", ".", value, value + ".", "." + mac, eve + "." + mac, other, good + "x", good[:len(good)-1],
		value + "." + strings.ToUpper(mac), "." + s.sign(""), signedJunk} {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.AddCookie(&http.Cookie{Name: cookieName, Value: forged})
		if p, err := s.authenticate(r); err == nil {
			t.Errorf("%q is accepted as %v", forged, p)
		}
	}
	if p, err := s.authenticate(httptest.NewRequest("GET", "/ws", nil)); err == nil {
		t.Errorf("no cookie is accepted as %v", p)
	}
}

func TestSignIn(t *testing.T) {
	s := signer{[]byte("key")}
	post := func(name string, header ...string) *http.Response {
		r := httptest.NewRequest("POST", "/login", strings.NewReader(url.Values{"name": {name}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		s.signIn(w, r)
		return w.Result()
	}
	for _, name := range []string{"", " ", " Ann", "A\nB", "A\u202eB", "A\xffB", strings.Repeat("é", maxName+1), strings.Repeat("x", 1<<20)} {
		if r := post(name); r.StatusCode != http.StatusBadRequest || len(r.Cookies()) > 0 {
			t.Errorf("%.20q: %s", name, r.Status)
		}
	}
	c := post("Ann").Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure {
		t.Errorf("%+v", c)
	}
	if c := post("Ann", "X-Forwarded-Proto", "https").Cookies()[0]; !c.Secure {
		t.Error("the cookie of an https site is sent over http")
	}
	a, b := httptest.NewRequest("GET", "/", nil), httptest.NewRequest("GET", "/", nil)
	a.AddCookie(c)
	b.AddCookie(post("Ann").Cookies()[0])
	one, err1 := s.authenticate(a)
	two, err2 := s.authenticate(b)
	if err1 != nil || err2 != nil || one.ID == two.ID || one.Name != "Ann" || !validID(one.ID) {
		t.Errorf("%v, %v, %v, %v", one, err1, two, err2)
	}
}

func TestSignIn_IsRefusedFromOtherSites(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	r, err := http.NewRequest("POST", node.url+"/login", strings.NewReader("name=Ann"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://evil.example")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("%s, want 403", res.Status)
	}
}

func TestNodes_ShareTheirKey(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	a, b := openBus(t, nats), openBus(t, nats)
	key, err := sharedKey(t.Context(), a.js, 1)
	if err != nil || len(key) != 32 {
		t.Fatal(key, err)
	}
	if other, err := sharedKey(t.Context(), b.js, 1); err != nil || string(other) != string(key) {
		t.Error("nodes have different keys", err)
	}
}
