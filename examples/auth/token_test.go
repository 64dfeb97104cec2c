package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestToken_SaysWhoItIsFor_UntilItExpires(t *testing.T) {
	key := []byte("secret")
	synctest.Test(t, func(t *testing.T) {
		for _, user := range []string{"ann", "", "a.b", "Zoë 👋", "a\r\nb"} {
			token := sign(key, identity{user, time.Now().Add(time.Hour)})
			if got, err := verify(key, token); got.user != user || !got.expires.Equal(time.Now().Add(time.Hour)) || err != nil {
				t.Errorf("%q: %+v, %v", user, got, err)
			}
			// A subprotocol is a token of HTTP (RFC 6455, section 4.1).
			if strings.ContainsAny(token, "()<>@,;:\\\"/[]?={} \t") {
				t.Errorf("%q cannot be a subprotocol", token)
			}
		}
		token := sign(key, identity{"ann", time.Now().Add(time.Hour)})
		time.Sleep(time.Hour - time.Second)
		if _, err := verify(key, token); err != nil {
			t.Errorf("a second before it expires: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := verify(key, token); err == nil {
			t.Error("accepted when it expires")
		}
	})
}

func TestToken_IsRefused_WhenItWasChanged(t *testing.T) {
	key := []byte("secret")
	token := sign(key, identity{"ann", time.Now().Add(time.Hour)})
	for i := range token {
		changed := []byte(token)
		changed[i] ^= 1
		if _, err := verify(key, string(changed)); err == nil {
			t.Errorf("%q is accepted instead of %q", changed, token)
		}
	}
	for _, bad := range []string{"", ".", "..", "...", "ann", token[:len(token)-1], token + "A", strings.Replace(token, ".", ".9", 1)} {
		if _, err := verify(key, bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, err := verify([]byte("another"), token); err == nil {
		t.Error("a token signed with another key is accepted")
	}
}
