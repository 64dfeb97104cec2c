package websocket

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"
)

// ReadJSON takes a text or a binary message. If it is not JSON, the connection stays usable.
func TestConn_Reads_JSON(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for _, row := range []struct {
			b0   byte
			data string
			ok   bool
		}{
			{0x81, `{"a":1}`, true}, {0x82, `{"a":1}`, true}, {0x81, " {\"a\": 1}\n", true}, {0x81, `{"a":1`, false},
			{0x81, "", false}, {0x81, "hello", false}, {0x82, "\xff\x00", false}, {0x81, `{"a":"x"}`, false},
			{0x81, `{"a":1}{"a":2}`, false}, {0x81, `{"a":1} x`, false}, {0x81, `{"a":1,"b":2}`, true},
		} {
			p.send(frameHex(row.b0, []byte(row.data)))
			var v struct{ A int }
			err := c.ReadJSON(patience(t), &v)
			if row.ok != (err == nil) || row.ok && v.A != 1 {
				t.Errorf("%q: %+v, %v", row.data, v, err)
			}
		}
		p.send("81 01 31")
		var n int
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.ReadJSON(ctx, &n); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		wantError(t, "ReadJSON", c.ReadJSON(ctx, &n), context.DeadlineExceeded)
		p.send(closeHex(1000, ""))
		wantError(t, "ReadJSON", c.ReadJSON(patience(t), &n), StatusNormalClosure)
	})
}

// WriteJSON sends a text message. If the value has no JSON form, nothing is sent.
func TestConn_Writes_JSON(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		c, p := connectRaw(t, server)
		for want, v := range map[string]any{
			`{"A":1}`: struct{ A int }{1}, "null": nil, `"€"`: "€", "[1,2]": []int{1, 2}, `"\ufffd"`: "\xff",
		} {
			if err := c.WriteJSON(patience(t), v); err != nil {
				t.Errorf("%v: %v", v, err)
			}
			if f := p.next(); f.first != 0x81 || strings.TrimSpace(string(f.payload)) != want {
				t.Errorf("%v: the peer reads %v %q, want %s", v, f, f.payload, want)
			}
		}
		for _, v := range []any{math.NaN(), make(chan int), func() {}} {
			if err := c.WriteJSON(patience(t), v); err == nil {
				t.Errorf("%T: no error", v)
			}
		}
		p.quiet()
		if err := c.WriteJSON(patience(t), 1); err != nil {
			t.Error(err)
		}
		p.expect("81 01 31")
	})
}
