package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// An identity says whom a token is for, and until when.
type identity struct {
	user    string
	expires time.Time
}

var encoding = base64.RawURLEncoding.Strict() // each token has only one spelling

var errToken = errors.New("the token is invalid or has expired")

// sign returns a token that only the holder of key can make. It has the user, the expiry and a MAC of both, in
// characters that a subprotocol may have.
func sign(key []byte, id identity) string {
	text := encoding.EncodeToString([]byte(id.user)) + "." + strconv.FormatInt(id.expires.Unix(), 10)
	return text + "." + encoding.EncodeToString(mac(key, text))
}

// verify returns the identity in a token, unless it was not signed with key or has expired.
func verify(key []byte, token string) (identity, error) {
	text, sum, _ := cutLast(token)
	got, err := encoding.DecodeString(sum)
	if err != nil || !hmac.Equal(got, mac(key, text)) {
		return identity{}, errToken
	}
	name, seconds, _ := cutLast(text)
	user, err := encoding.DecodeString(name)
	if err != nil {
		return identity{}, errToken
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || !time.Now().Before(time.Unix(unix, 0)) {
		return identity{}, errToken
	}
	return identity{string(user), time.Unix(unix, 0)}, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
