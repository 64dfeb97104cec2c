package websocket

import (
	"fmt"
	"strings"
	"testing"
)

// extensions parses a simple field: without quotes, and with spaces only after ";" and ",".
func extensions(header string) (list []extension) {
	for e := range strings.SplitSeq(header, ", ") {
		parts := strings.Split(e, "; ")
		ext := extension{name: parts[0]}
		for _, p := range parts[1:] {
			name, value, hasValue := strings.Cut(p, "=")
			ext.params = append(ext.params, extensionParam{name, value, hasValue})
		}
		list = append(list, ext)
	}
	return list
}

// bitsParam returns a parameter with window bits: none for 0, one without a value for anyBits.
func bitsParam(name string, bits int) string {
	switch bits {
	case 0:
		return ""
	case anyBits:
		return "; " + name
	}
	return fmt.Sprintf("; %s=%d", name, bits)
}

func flagParam(name string, on bool) string {
	if on {
		return "; " + name
	}
	return ""
}

var windowBits = []int{0, 8, 9, 10, 11, 12, 13, 14, 15}

// A client accepts every combination of server_no_context_takeover and client_no_context_takeover, because its second
// offer lets the server keep its window (RFC 7692, section 7.1.1). It never uses takeover if it promised not to.
func TestClient_Confirms_NoContextTakeover(t *testing.T) {
	for _, tt := range []struct{ takeover, server, client, sends, keeps bool }{
		{takeover: true, sends: true, keeps: true},
		{takeover: true, server: true, sends: true},
		{takeover: true, client: true, keeps: true},
		{takeover: true, server: true, client: true},
		{keeps: true},
		{client: true, keeps: true},
		{server: true},
		{server: true, client: true},
	} {
		answer := deflateName + flagParam("server_no_context_takeover", tt.server) + flagParam("client_no_context_takeover", tt.client)
		p, err := (&Compression{ContextTakeover: tt.takeover}).confirm(extensions(answer))
		if err != nil || (p.sendTakeover != tt.sends || p.recvTakeover != tt.keeps) {
			t.Errorf("takeover %t, answer %q: %+v, %v", tt.takeover, answer, p, err)
		}
	}
}

// A client that limits the server's window accepts only an answer within that limit. One that does not accepts any (RFC
// 7692, section 7.1.2.1).
func TestClient_Confirms_ServerMaxWindowBits(t *testing.T) {
	for _, offered := range windowBits {
		for _, got := range windowBits {
			o := &Compression{ContextTakeover: true, WindowBits: offered}
			limit := offered % 15 // 15 is no limit
			p, err := o.confirm(extensions(deflateName + bitsParam("server_max_window_bits", got)))
			fails := limit != 0 && (got == 0 || got > limit)
			if (err != nil) != fails {
				t.Errorf("offered %d, answer %d: %v", offered, got, err)
			}
			if want := (got+14)%15 + 1; err == nil && p.recvBits != want {
				t.Errorf("offered %d, answer %d: receives with %d bits, want %d", offered, got, p.recvBits, want)
			}
		}
	}
}

// A server may ignore the offered value of client_max_window_bits, so the answer may have any (RFC 7692, section
// 7.1.2.2). The client compresses within the smaller of that and its own limit.
func TestClient_Confirms_ClientMaxWindowBits(t *testing.T) {
	for _, offered := range windowBits {
		for _, got := range windowBits {
			o := &Compression{ContextTakeover: true, WindowBits: offered}
			answer := deflateName + bitsParam("server_max_window_bits", offered%15) + bitsParam("client_max_window_bits", got)
			want := min((offered+14)%15, (got+14)%15) + 1 // 0 is 15
			if p, err := o.confirm(extensions(answer)); err != nil || p.sendBits != want {
				t.Errorf("WindowBits %d, answer %q: %+v, %v; want %d bits", offered, answer, p, err, want)
			}
		}
	}
}

// A server grants both no_context_takeover parameters, and asks for them itself if it does not want takeover (RFC 7692,
// section 7.1.1).
func TestServer_Accepts_NoContextTakeover(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		for _, server := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				offer := deflateName + flagParam("server_no_context_takeover", server) + flagParam("client_no_context_takeover", client)
				want := deflateName + flagParam("server_no_context_takeover", server || !takeover) + flagParam("client_no_context_takeover", client || !takeover)
				p, answer := (&Compression{ContextTakeover: takeover}).accept(extensions(offer))
				if answer != want {
					t.Errorf("takeover %t, offer %q: answer %q, want %q", takeover, offer, answer, want)
				}
				if p == nil || p.sendTakeover != (takeover && !server) || p.recvTakeover != (takeover && !client) {
					t.Errorf("takeover %t, offer %q: %+v", takeover, offer, p)
				}
			}
		}
	}
}

// A server answers with the smaller of the offered server_max_window_bits and its own limit (RFC 7692, section
// 7.1.2.1).
func TestServer_Accepts_ServerMaxWindowBits(t *testing.T) {
	for _, own := range windowBits {
		for _, offered := range windowBits {
			want := offered // none,M: M
			if own%15 != 0 && (offered == 0 || offered > own) {
				want = own // N,none: N; N,M>N: N
			}
			p, answer := (&Compression{ContextTakeover: true, WindowBits: own}).accept(extensions(deflateName + bitsParam("server_max_window_bits", offered)))
			if answer != deflateName+bitsParam("server_max_window_bits", want) {
				t.Errorf("own %d, offered %d: answer %q", own, offered, answer)
			}
			if p == nil || p.sendBits != (want+14)%15+1 || p.recvBits != 15 {
				t.Errorf("own %d, offered %d: %+v", own, offered, p)
			}
		}
	}
}

// A server limits the client's window only if the offer has client_max_window_bits (RFC 7692, section 7.1.2.2).
func TestServer_Accepts_ClientMaxWindowBits(t *testing.T) {
	for _, own := range windowBits {
		for _, offered := range append(windowBits, anyBits) {
			want := max(offered, 0) // none,M: M; none,true: none
			if limit := own % 15; limit != 0 && offered != 0 && (offered == anyBits || offered > limit) {
				want = limit // N,true: N; N,M>N: N
			}
			o := &Compression{ContextTakeover: true, WindowBits: own}
			p, answer := o.accept(extensions(deflateName + bitsParam("client_max_window_bits", offered)))
			rest := strings.TrimSuffix(answer, bitsParam("client_max_window_bits", want))
			if rest != deflateName+bitsParam("server_max_window_bits", own%15) {
				t.Errorf("own %d, offered %d: answer %q", own, offered, answer)
			}
			if p == nil || p.recvBits != (want+14)%15+1 {
				t.Errorf("own %d, offered %d: %+v", own, offered, p)
			}
		}
	}
}

// A server accepts the first valid offer, and declines without an error if there is none (RFC 7692, section 7.1).
func TestServer_Accepts_FirstValidOffer(t *testing.T) {
	for _, tt := range []struct{ offers, want string }{
		{deflateName, deflateName},
		{"permessage-bzip2, permessage-deflate", deflateName},
		{"x-webkit-deflate-frame", ""},
		{deflateName + "; server_max_window_bits=10, " + deflateName, deflateName + "; server_max_window_bits=10"},
		{deflateName + "; server_max_window_bits=7, " + deflateName, deflateName},
		{deflateName + "; unknown, " + deflateName + "; server_no_context_takeover", deflateName + "; server_no_context_takeover"},
		{deflateName + "; unknown", ""},
		{deflateName + "; server_no_context_takeover; server_no_context_takeover", ""},
		{deflateName + "; client_max_window_bits; client_max_window_bits=10", ""},
	} {
		p, answer := (&Compression{ContextTakeover: true}).accept(extensions(tt.offers))
		if answer != tt.want || (p == nil) != (tt.want == "") {
			t.Errorf("%q: answer %q, %v, want %q", tt.offers, answer, p, tt.want)
		}
		if strings.Count(answer, deflateName) > 1 {
			t.Errorf("%q: more than one in the answer", tt.offers)
		}
	}
}

// Values of each parameter, and whether they are valid in an offer and in an answer.
var parameterValues = []struct {
	param         string
	offer, answer bool
}{
	{"server_no_context_takeover", true, true},
	{"server_no_context_takeover=", false, false},
	{"server_no_context_takeover=true", false, false},
	{"server_no_context_takeover=10", false, false},
	{"client_no_context_takeover", true, true},
	{"client_no_context_takeover=", false, false},
	{"client_no_context_takeover=x", false, false},
	{"client_max_window_bits", true, false},
	{"client_max_window_bits=", false, false},
	{"server_max_window_bits", false, false},
	{"server_max_window_bits=", false, false},
	{"unknown", false, false},
	{"server_max_window_bits=8", true, true},
	{"server_max_window_bits=15", true, true},
	{"client_max_window_bits=8", true, true},
	{"client_max_window_bits=15", true, true},
}

func TestCompression_Parses_Values(t *testing.T) {
	tests := parameterValues
	for _, v := range []string{"7", "16", "0", "-8", "+8", "08", "010", "8.0", "8 ", " 8", "0x8", "1e1", "ten", "٨", "99999999999999999999", "1_0"} {
		for _, name := range []string{"server_max_window_bits=", "client_max_window_bits="} {
			tests = append(tests, parameterValues[1])
			tests[len(tests)-1].param = name + v
		}
	}
	o := &Compression{ContextTakeover: true}
	for _, tt := range tests {
		header := deflateName + "; " + tt.param
		if p, answer := o.accept(extensions(header)); (p != nil) != tt.offer {
			t.Errorf("offer %q: answer %q", header, answer)
		}
		if p, err := o.confirm(extensions(header)); (err == nil) != tt.answer || (p != nil) != tt.answer {
			t.Errorf("answer %q: %+v, %v", header, p, err)
		}
	}
}

// A client fails if the answer matches none of its offers.
func TestClient_Refuses_WrongAnswers(t *testing.T) {
	for _, tt := range []struct {
		o      *Compression
		answer string
		fails  bool
	}{
		{&Compression{ContextTakeover: true}, deflateName, false},
		{&Compression{ContextTakeover: true}, deflateName + ", " + deflateName, true},
		{&Compression{ContextTakeover: true}, "permessage-bzip2", true},
		{&Compression{ContextTakeover: true}, deflateName + ", permessage-bzip2", true},
		{&Compression{ContextTakeover: true}, "permessage-bzip2, " + deflateName, true},
		{&Compression{ContextTakeover: true}, deflateName + "; server_no_context_takeover; server_no_context_takeover", true},
		{nil, deflateName, true},
	} {
		if p, err := tt.o.confirm(extensions(tt.answer)); (err != nil) != tt.fails || (p == nil) != tt.fails {
			t.Errorf("%+v, answer %q: %+v, %v", tt.o, tt.answer, p, err)
		}
	}
}

// A nil Compression neither offers nor accepts. An answer without the extension declines the offer.
func TestCompression_Off(t *testing.T) {
	var off *Compression
	if p, answer := off.accept(extensions(deflateName)); p != nil || answer != "" || off.offer() != "" || off.check() != nil {
		t.Errorf("nil: %+v, %q, offer %q, %v", p, answer, off.offer(), off.check())
	}
	for _, o := range []*Compression{off, {}} {
		if p, err := o.confirm(nil); p != nil || err != nil {
			t.Errorf("%+v: %+v, %v", o, p, err)
		}
	}
}

// The first offer suits the client best. The second lacks the parameter and the value that some servers refuse.
func TestClient_Offers_SecondChoice(t *testing.T) {
	for _, tt := range []struct {
		o    Compression
		want string
	}{
		{Compression{}, "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits, " +
			"permessage-deflate; client_no_context_takeover; client_max_window_bits"},
		{Compression{WindowBits: 9}, "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9, " +
			"permessage-deflate; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits"},
		{Compression{ContextTakeover: true}, "permessage-deflate; client_max_window_bits"},
		{Compression{ContextTakeover: true, WindowBits: 15}, "permessage-deflate; client_max_window_bits"},
		{Compression{ContextTakeover: true, WindowBits: 9}, "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9, " +
			"permessage-deflate; server_max_window_bits=9; client_max_window_bits"},
	} {
		wantEqual(t, fmt.Sprintf("the offer of %+v", tt.o), tt.o.offer(), tt.want)
	}
}

// With every pair of settings the two ends agree, and each refers only to bytes that the other keeps.
func TestCompression_Agrees_WithEverySetting(t *testing.T) {
	for _, client := range windowBits {
		for _, server := range windowBits {
			for i := range 4 {
				c := &Compression{WindowBits: client, ContextTakeover: i&1 != 0}
				s := &Compression{WindowBits: server, ContextTakeover: i&2 != 0}
				sp, answer := s.accept(extensions(c.offer()))
				cp, err := c.confirm(extensions(answer))
				if err != nil || sp == nil {
					t.Fatalf("client %+v, server %+v: answer %q, %v", c, s, answer, err)
				}
				if cp.sendTakeover && !sp.recvTakeover || sp.sendTakeover && !cp.recvTakeover || cp.sendBits > sp.recvBits || sp.sendBits > cp.recvBits {
					t.Errorf("client %+v, server %+v: %+v and %+v", c, s, cp, sp)
				}
				if limit := min((client+14)%15, (server+14)%15) + 1; cp.sendBits > limit || sp.sendBits > limit {
					t.Errorf("client %+v, server %+v: windows of %d and %d bits", c, s, cp.sendBits, sp.sendBits)
				}
			}
		}
	}
}

func TestCompression_Defaults(t *testing.T) {
	for _, tt := range []struct {
		o                Compression
		level, threshold int
	}{
		{Compression{}, 1, 128},
		{Compression{Level: 1, Threshold: 1}, 1, 1},
		{Compression{Level: 9, Threshold: -1}, 9, 0},
	} {
		p, _ := tt.o.accept(extensions(deflateName))
		if p.level != tt.level || p.threshold != tt.threshold {
			t.Errorf("%+v: %+v", tt.o, p)
		}
	}
}

func TestCompression_Check(t *testing.T) {
	for _, tt := range []struct {
		o  Compression
		ok bool
	}{
		{Compression{}, true},
		{Compression{Level: 9, WindowBits: 8, Threshold: -5}, true},
		{Compression{WindowBits: 15}, true},
		{Compression{Level: -1}, false},
		{Compression{Level: 10}, false},
		{Compression{WindowBits: 7}, false},
		{Compression{WindowBits: 16}, false},
		{Compression{WindowBits: -1}, false},
	} {
		if err := tt.o.check(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.o, err)
		}
	}
}
