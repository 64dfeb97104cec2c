package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	cookieName = "chat"
	signedFor  = 12 * time.Hour
	maxName    = 32 // characters of a user's or a room's name
)

// A Person is a user of the chat. Limits apply per ID; others see the name.
type Person struct {
	ID   string `json:"id"` // letters, digits, "-" and "_"
	Name string `json:"name"`
}

// Authenticate returns the person that r belongs to. It is called before the upgrade, and an error refuses the request
// with 401. Replace signer.authenticate and signIn with the authentication of your site.
type Authenticate func(r *http.Request) (Person, error)

// A signer issues and checks cookies: a JSON value and its HMAC-SHA256. All nodes have the same key.
type signer struct{ key []byte }

type signed struct {
	Person
	Expires int64 `json:"expires"` // seconds since 1970
}

// authenticate returns the person named in the cookie of r. It is an Authenticate.
func (s signer) authenticate(r *http.Request) (Person, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return Person{}, err
	}
	value, mac, _ := strings.Cut(c.Value, ".")
	if !hmac.Equal([]byte(mac), []byte(s.sign(value))) {
		return Person{}, errors.New("the cookie is not signed by this site")
	}
	var p signed
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil && time.Now().Unix() >= p.Expires {
		err = errors.New("the cookie has expired")
	}
	return p.Person, err
}

func (s signer) sign(value string) string {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(value))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// cookie returns a cookie for p that expires at the given time.
func (s signer) cookie(p Person, expires time.Time) *http.Cookie {
	b, err := json.Marshal(signed{p, expires.Unix()})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	value := base64.RawURLEncoding.EncodeToString(b)
	return &http.Cookie{
		Name:     cookieName,
		Value:    value + "." + s.sign(value),
		Path:     "/",
		Expires:  expires,
		HttpOnly: true,
		SameSite: http.SameSiteStrictMode,
	}
}

// signIn gives everybody a cookie with the name of their choice: POST /login, name=Ann. A real site asks for more.
func (s signer) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
	name := r.PostFormValue("name")
	if problem := check("name", name); problem != "" {
		http.Error(w, problem, http.StatusBadRequest)
		return
	}
	c := s.cookie(Person{rand.Text(), name}, time.Now().Add(signedFor))
	c.Secure = r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
	http.SetCookie(w, c)
	w.WriteHeader(http.StatusNoContent)
}

// check explains why the name of a person or a room is not accepted, or returns "" if it is. The rule is that of
// examples/chat.
func check(what, s string) string {
	isJoiner := func(r rune) bool { return r == '\u200c' || r == '\u200d' } // part of emoji and of Persian and Indic names
	isUnfit := func(r rune) bool { return !unicode.IsPrint(r) && !isJoiner(r) }
	switch {
	case s == "":
		return "The " + what + " is missing."
	case !utf8.ValidString(s):
		return "The " + what + " is not valid UTF-8."
	case utf8.RuneCountInString(s) > maxName:
		return fmt.Sprintf("The %s is longer than %d characters.", what, maxName)
	case strings.ContainsFunc(s, isUnfit):
		return "The " + what + " contains a character that cannot be shown."
	case s != strings.TrimFunc(s, func(r rune) bool { return r == ' ' || isJoiner(r) }):
		return "The " + what + " begins or ends with an invisible character."
	}
	return ""
}

// sharedKey returns the key that all nodes sign with. The first node chooses it. It is stored in NATS, where anybody
// who can read the key could also write messages in anybody's name.
func sharedKey(ctx context.Context, js jetstream.JetStream, replicas int) ([]byte, error) {
	config := jetstream.KeyValueConfig{Bucket: "CHAT_KEYS", Replicas: replicas}
	bucket, err := js.KeyValue(ctx, config.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		bucket, err = js.CreateKeyValue(ctx, config)
	}
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	if _, err = bucket.Create(ctx, "cookie", key); err == nil {
		return key, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return nil, err
	}
	e, err := bucket.Get(ctx, "cookie")
	if err != nil {
		return nil, err
	}
	return e.Value(), nil
}
