package interop

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"example.com/websocket"
)

// An agreement is one combination of the parameters of permessage-deflate (RFC 7692, section 7.1).
type agreement struct {
	serverFresh, clientFresh bool // no context takeover
	serverBits, clientBits   int
}

func (a agreement) String() string {
	return fmt.Sprintf("server %d/%t client %d/%t", a.serverBits, a.serverFresh, a.clientBits, a.clientFresh)
}

// options returns the perMessageDeflate option of Node's ws.
func (a agreement) options() map[string]any {
	options := map[string]any{"threshold": 0, "serverMaxWindowBits": a.serverBits, "clientMaxWindowBits": a.clientBits}
	if a.serverFresh {
		options["serverNoContextTakeover"] = true
	}
	if a.clientFresh {
		options["clientNoContextTakeover"] = true
	}
	return options
}

// agreements returns every combination.
func agreements() (all []agreement) {
	for _, serverFresh := range []bool{false, true} {
		for _, clientFresh := range []bool{false, true} {
			for serverBits := 9; serverBits <= 15; serverBits++ {
				for clientBits := 9; clientBits <= 15; clientBits++ {
					all = append(all, agreement{serverFresh, clientFresh, serverBits, clientBits})
				}
			}
		}
	}
	return all
}

// tellingMessages reveal a wrong window: the same strings are repeated just inside and just beyond each window, within
// a message and between messages. Some messages are short, and some cannot be compressed.
func tellingMessages() (list []websocket.Message) {
	random := rand.New(rand.NewPCG(7692, 6455))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyzABCDEF"[random.IntN(32)]
		}
		return b
	}
	again := text(40)
	var long []byte
	for bits := 8; bits <= 15; bits++ {
		for _, distance := range []int{1<<bits - 60, 1<<bits - 40, 1<<bits + 1 - 40, 1<<bits + 60} {
			long = append(append(long, again...), text(distance-40)...)
		}
	}
	jsonText := `{"user":"Ann","room":"lobby","text":"the same words again and again","n":%d}`
	for i := range 4 {
		list = append(list, websocket.Message{Type: websocket.TextMessage, Data: fmt.Appendf(nil, jsonText, i)})
	}
	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	return append(list,
		websocket.Message{Type: websocket.BinaryMessage, Data: noise},
		websocket.Message{Type: websocket.BinaryMessage, Data: noise},
		websocket.Message{Type: websocket.TextMessage, Data: nil},
		websocket.Message{Type: websocket.TextMessage, Data: long},
		websocket.Message{Type: websocket.TextMessage, Data: long[:3000]},
		websocket.Message{Type: websocket.TextMessage, Data: []byte(strings.Repeat("é", 10_000))})
}

func TestClientDeflatesWithNodeInEveryAgreement(t *testing.T) {
	server := startNodeServer(t)
	messages := tellingMessages()
	opts := &websocket.Options{Compression: &websocket.Compression{ContextTakeover: true, Threshold: -1}}
	for _, a := range agreements() {
		b, err := json.Marshal(a.options())
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, server.addr+"/echo?"+url.Values{"deflate": {string(b)}}.Encode(), opts)
		exchange(t, c, messages)
		if err := c.Close(1000, ""); err != nil {
			t.Errorf("%v: Close: %v", a, err)
		}
		var told report
		server.tells(&told)
		if !a.agreed(told.Answer) || told.Code != 1000 || told.Error != "" {
			t.Fatalf("%v: Node saw %+v", a, told)
		}
	}
}

// agreed reports whether the answer has exactly the parameters of a.
func (a agreement) agreed(answer string) bool {
	has := func(param string) bool { return strings.Contains(answer+";", param+";") }
	return strings.HasPrefix(answer, "permessage-deflate") &&
		has("server_no_context_takeover") == a.serverFresh &&
		has("client_no_context_takeover") == a.clientFresh &&
		has(fmt.Sprint("server_max_window_bits=", a.serverBits)) &&
		(has(fmt.Sprint("client_max_window_bits=", a.clientBits)) || a.clientBits == 15)
}

func TestServerDeflatesWithNodeInEveryAgreement(t *testing.T) {
	peer, addr := startPeer(t, &websocket.Options{Compression: &websocket.Compression{ContextTakeover: true, Threshold: -1}})
	client := startNode(t, "client.js")
	messages := tellingMessages()
	for _, a := range agreements() {
		var got outcome
		client.asks(job{
			URL: addr + "/echo", Options: map[string]any{"perMessageDeflate": a.options()},
			Messages: nodeMessages(messages), Close: []any{1000},
		}, &got)
		if !got.allReceived(len(messages)) || got.Code != 1000 || !a.honoured(got.Answer) {
			t.Fatalf("%v: Node saw %+v", a, got)
		}
		receive(t, peer.arrivals, "end of the connection")
	}
}

// honoured reports whether the answer grants what the offer a demands (RFC 7692, sections 7.1.1.1 and 7.1.2.1). The
// client's parameters in an offer are hints, which the answer may leave out.
func (a agreement) honoured(answer string) bool {
	return strings.HasPrefix(answer, "permessage-deflate") &&
		(!a.serverFresh || strings.Contains(answer, "server_no_context_takeover")) &&
		(a.serverBits == 15 || strings.Contains(answer, fmt.Sprint("server_max_window_bits=", a.serverBits)))
}

func TestClientOffersToNode(t *testing.T) {
	server := startNodeServer(t)
	for _, takeover := range []bool{false, true} {
		for bits := 9; bits <= 15; bits++ {
			opts := &websocket.Options{Compression: &websocket.Compression{ContextTakeover: takeover, WindowBits: bits, Threshold: -1}}
			c := dial(t, server.addr+`/echo?deflate={"threshold":0}`, opts)
			exchange(t, c, tellingMessages())
			if err := c.Close(1000, ""); err != nil {
				t.Errorf("Close: %v", err)
			}
			var told report
			server.tells(&told)
			t.Logf("takeover %t, %d bits: %s -> %s", takeover, bits, told.Offer, told.Answer)
			if !strings.HasPrefix(told.Answer, "permessage-deflate") || told.Error != "" {
				t.Errorf("Node saw %+v", told)
			}
		}
	}
}

// nodeConfigurations are settings of perMessageDeflate in Node's ws. Each setting other than the default makes the
// server demand or refuse a parameter. The server answers 400 to an offer that it cannot accept.
var nodeConfigurations = []string{
	`{}`,
	`{"serverNoContextTakeover":false}`,
	`{"serverNoContextTakeover":true}`,
	`{"clientNoContextTakeover":false}`,
	`{"clientNoContextTakeover":true}`,
	`{"serverMaxWindowBits":false}`,
	`{"serverMaxWindowBits":true}`,
	`{"serverMaxWindowBits":9}`,
	`{"serverMaxWindowBits":12}`,
	`{"serverMaxWindowBits":15}`,
	`{"clientMaxWindowBits":false}`,
	`{"clientMaxWindowBits":true}`,
	`{"clientMaxWindowBits":9}`,
	`{"clientMaxWindowBits":12}`,
	`{"clientMaxWindowBits":15}`,
	`{"serverNoContextTakeover":false,"clientNoContextTakeover":false}`,
	`{"serverNoContextTakeover":false,"clientMaxWindowBits":12}`,
	`{"serverNoContextTakeover":false,"serverMaxWindowBits":false,"clientMaxWindowBits":false}`,
	`{"serverNoContextTakeover":true,"clientNoContextTakeover":true,"serverMaxWindowBits":10,"clientMaxWindowBits":10}`,
	`{"serverNoContextTakeover":false,"serverMaxWindowBits":15,"clientMaxWindowBits":15}`,
}

// With every configuration of Node's ws, a client gets a compressed connection, unless the server does not accept its
// WindowBits.
func TestClientOffersToNodeInEveryConfiguration(t *testing.T) {
	server := startNodeServer(t)
	for _, o := range []websocket.Compression{{}, {ContextTakeover: true}, {WindowBits: 10}, {WindowBits: 10, ContextTakeover: true}} {
		o.Threshold = -1
		t.Logf("Compression{ContextTakeover: %t, WindowBits: %d}", o.ContextTakeover, o.WindowBits)
		for _, config := range nodeConfigurations {
			answer, err := answerOfNode(t, server, config, &o)
			if err != nil {
				answer = err.Error()
			}
			t.Logf("  %-95s %s", config, strings.TrimPrefix(answer, "permessage-deflate; "))
			if refuses := o.WindowBits != 0 && keepsLargerWindow(config, o.WindowBits); (err != nil) != refuses {
				t.Errorf("Node set to %s answered %s", config, answer)
			}
		}
	}
}

// answerOfNode exchanges messages with a server of this configuration and returns its Sec-WebSocket-Extensions.
func answerOfNode(t *testing.T, server nodeServer, config string, o *websocket.Compression) (string, error) {
	t.Helper()
	query := url.Values{"deflate": {config}}.Encode()
	c, err := websocket.Dial(patient(t), server.addr+"/echo?"+query, &websocket.Options{Compression: o})
	if err != nil {
		return "", err
	}
	defer c.CloseNow()
	exchange(t, c, tellingMessages())
	if err := c.Close(1000, ""); err != nil {
		t.Errorf("Close: %v", err)
	}
	var told report
	server.tells(&told)
	if !strings.HasPrefix(told.Answer, "permessage-deflate") || told.Error != "" || told.Code != 1000 {
		t.Errorf("Node saw %+v", told)
	}
	return told.Answer, nil
}

// keepsLargerWindow reports whether a server with this configuration refuses to limit its window to the given number of
// bits.
func keepsLargerWindow(config string, bits int) bool {
	var c struct{ ServerMaxWindowBits any }
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		panic(err)
	}
	n, isNumber := c.ServerMaxWindowBits.(float64)
	return c.ServerMaxWindowBits == false || isNumber && int(n) > bits
}

func TestServerLimitsNode(t *testing.T) {
	client := startNode(t, "client.js")
	messages := tellingMessages()
	for _, takeover := range []bool{false, true} {
		for bits := 9; bits <= 15; bits++ {
			_, addr := startPeer(t, &websocket.Options{Compression: &websocket.Compression{ContextTakeover: takeover, WindowBits: bits, Threshold: -1}})
			var got outcome
			client.asks(job{
				URL: addr + "/echo", Options: map[string]any{"perMessageDeflate": map[string]any{"threshold": 0}},
				Messages: nodeMessages(messages), Close: []any{1000},
			}, &got)
			t.Logf("takeover %t, %d bits: %s", takeover, bits, got.Answer)
			if !got.allReceived(len(messages)) || !strings.HasPrefix(got.Answer, "permessage-deflate") {
				t.Errorf("takeover %t, %d bits: Node saw %+v", takeover, bits, got)
			}
		}
	}
}

// zlib inflates our messages with a window of exactly the agreed size, so that a distance beyond the window is an
// error.
func TestZlibInflatesWhatWeDeflate(t *testing.T) {
	zlib := startNode(t, "inflate.js")
	messages := tellingMessages()
	for _, takeover := range []bool{false, true} {
		for bits := 8; bits <= 15; bits++ {
			opts := &websocket.Options{Compression: &websocket.Compression{ContextTakeover: takeover, WindowBits: bits, Threshold: -1}}
			_, addr := startPeer(t, opts)
			wire := &recorder{}
			recorded := *opts
			recorded.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: wire.dial}}
			c := dial(t, addr+"/echo", &recorded)
			exchange(t, c, messages)
			c.Close(1000, "")
			for side, frames := range map[string][]byte{"client": wire.sent(), "server": wire.received()} {
				t.Run(fmt.Sprintf("%s takeover=%t bits=%d", side, takeover, bits), func(t *testing.T) {
					zlib.t = t
					inflate(zlib, frames, messages, takeover, bits)
				})
			}
		}
	}
}

// inflate has zlib inflate the compressed messages among those recorded, each separately or, with takeover, as one
// stream.
func inflate(zlib *node, recorded []byte, messages []websocket.Message, takeover bool, bits int) {
	zlib.t.Helper()
	var chunks [][]byte
	var want []byte
	_, frames, _ := bytes.Cut(recorded, []byte("\r\n\r\n"))
	for _, m := range messages {
		first, payload, rest := nextFrame(frames)
		frames = rest
		if rsv1 := first&0x40 != 0; !rsv1 {
			if !bytes.Equal(payload, m.Data) {
				zlib.t.Errorf("a frame of %d bytes, want a message of %d", len(payload), len(m.Data))
			}
			continue
		}
		chunks = append(chunks, append(payload, 0, 0, 0xff, 0xff))
		want = append(want, m.Data...)
		if !takeover {
			zlib.inflates(chunks, bits, want)
			chunks, want = nil, nil
		}
	}
	zlib.inflates(chunks, bits, want)
}

func (n *node) inflates(chunks [][]byte, bits int, want []byte) {
	n.t.Helper()
	if chunks == nil {
		return
	}
	answer := n.zlib(chunks, bits)
	if answer.Error != "" || !bytes.Equal(answer.Data, want) {
		n.t.Errorf("zlib makes %d bytes of it, want %d: %s", len(answer.Data), len(want), answer.Error)
	}
}

type inflated struct {
	Data  []byte
	Error string
}

func (n *node) zlib(chunks [][]byte, bits int) (answer inflated) {
	n.t.Helper()
	n.asks(map[string]any{"bits": bits, "chunks": chunks}, &answer)
	return answer
}

// This tests the check itself: zlib has to refuse the distances of a larger window.
func TestZlibRefusesALargerWindow(t *testing.T) {
	zlib := startNode(t, "inflate.js")
	random := rand.New(rand.NewPCG(1, 2))
	for bits := 8; bits < 15; bits++ {
		block := make([]byte, 1<<bits+200)
		for i := range block {
			block[i] = byte(random.Uint32())
		}
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, 9)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(block)
		w.Write(block)
		w.Flush()
		if answer := zlib.zlib([][]byte{b.Bytes()}, bits); answer.Error == "" {
			t.Errorf("%d bits: a distance of %d passed", bits, len(block))
		}
		if answer := zlib.zlib([][]byte{b.Bytes()}, bits+1); answer.Error != "" {
			t.Errorf("%d bits: %s", bits+1, answer.Error)
		}
	}
}

// nextFrame removes an unfragmented message from the front of b and unmasks it.
func nextFrame(b []byte) (first byte, payload, rest []byte) {
	first, length, b2 := b[0], int(b[1]&0x7f), b[2:]
	switch length {
	case 126:
		length, b2 = int(binary.BigEndian.Uint16(b2)), b2[2:]
	case 127:
		length, b2 = int(binary.BigEndian.Uint64(b2)), b2[8:]
	}
	var key [4]byte
	if b[1]&0x80 != 0 {
		copy(key[:], b2)
		b2 = b2[4:]
	}
	payload = bytes.Clone(b2[:length])
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	return first, payload, b2[length:]
}

// A recorder records the bytes of the connection that it dials.
type recorder struct {
	mu      sync.Mutex
	in, out []byte
}

func (r *recorder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &recorded{nc, r}, err
}

func (r *recorder) sent() []byte     { r.mu.Lock(); defer r.mu.Unlock(); return bytes.Clone(r.out) }
func (r *recorder) received() []byte { r.mu.Lock(); defer r.mu.Unlock(); return bytes.Clone(r.in) }

type recorded struct {
	net.Conn
	to *recorder
}

func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.in = append(c.to.in, p[:n]...)
	return n, err
}

func (c *recorded) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.out = append(c.to.out, p[:n]...)
	return n, err
}
