package websocket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// settings are the kinds of connections that a message is sent on.
var settings = map[string]*Compression{
	"Plain":        nil,
	"Compressed":   {},
	"SmallWindow":  {WindowBits: 9},
	"Level9":       {Level: 9, WindowBits: 12},
	"Takeover":     {ContextTakeover: true},
	"Takeover9":    {ContextTakeover: true, WindowBits: 9},
	"Takeover12":   {ContextTakeover: true, WindowBits: 12, Level: 9},
	"AnyLength":    {Threshold: -1},
	"NeverReached": {Threshold: 1 << 30},
}

// pipeOf returns the ends of a Pipe, the one that sends first.
func pipeOf(t *testing.T, fromServer bool, compression *Compression) (from, to *Conn) {
	o := &Options{Compression: compression, KeepAlive: -1}
	server, client := Pipe(o, o)
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	if fromServer {
		return server, client
	}
	return client, server
}

// One message goes to connections of all kinds, again and again.
func TestPrepared_Sends_ToAllKinds(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		type pair struct{ from, to *Conn }
		pairs := map[string]pair{}
		for name, s := range settings {
			from, to := pipeOf(t, server, s)
			pairs[name] = pair{from, to}
		}
		for _, data := range [][]byte{nil, []byte("short"), jsonText(1, 127), jsonText(1, 128), jsonText(2, 2000), jsonText(3, 50000), noise(1, 3000)} {
			for _, typ := range []MessageType{TextMessage, BinaryMessage, BinaryMessage | Uncompressed} {
				if typ == TextMessage && !validText(data) {
					continue
				}
				m, err := NewPreparedMessage(typ, data)
				must(t, err)
				for name, p := range pairs {
					for i := range 3 {
						if err := sendPrepared(patience(t), p.from, m, i); err != nil {
							t.Fatalf("%s: %v", name, err)
						}
						wantRead(t, p.to, typ&^Uncompressed, string(data))
					}
				}
			}
		}
	})
}

// A prepared message is the same on any connection, of either role, with a masking key of its own each time.
func TestPrepared_Sends_WithNewMaskingKeys(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, n := range []int{0, 5, 125, 126, 65535, 65536, 200 << 10} {
			data := pattern(n)
			m, err := NewPreparedMessage(BinaryMessage, data)
			must(t, err)
			clear(data)
			keys := map[[4]byte]bool{}
			for i := range 4 {
				c, p := connectRaw(t, server)
				go sendPrepared(t.Context(), c, m, i)
				f := p.next()
				if f.first != 0x82 || !bytes.Equal(f.payload, pattern(n)) {
					t.Fatalf("%d bytes: %v", n, f)
				}
				keys[f.key] = true
				c.CloseNow()
			}
			if !server && len(keys) != 4 {
				t.Errorf("%d keys for 4 frames", len(keys))
			}
		}
	})
}

func sendPrepared(ctx context.Context, c *Conn, m *PreparedMessage, i int) error {
	if i%2 == 0 {
		return c.SendPrepared(m)
	}
	return c.WritePrepared(ctx, m)
}

// sentBytes returns how many bytes m takes on a new connection.
func sentBytes(t *testing.T, server bool, compression *Compression, m *PreparedMessage) int {
	t.Helper()
	from, to := pipeOf(t, server, compression)
	must(t, from.WritePrepared(patience(t), m))
	if _, _, err := to.Read(patience(t)); err != nil {
		t.Fatal(err)
	}
	return int(from.Stats().BytesWritten)
}

// Each connection has its own threshold. Messages that are Uncompressed or would not get shorter are sent as they are.
func TestPrepared_Sends_CompressedWhereItHelps(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		for _, row := range []struct {
			name       string
			typ        MessageType
			data       []byte
			setting    string
			compressed bool
		}{
			{"Plain", TextMessage, jsonText(1, 2000), "Plain", false},
			{"Compressed", TextMessage, jsonText(1, 2000), "Compressed", true},
			{"Takeover", TextMessage, jsonText(1, 2000), "Takeover", true},
			{"SmallWindow", TextMessage, jsonText(1, 2000), "SmallWindow", true},
			{"BelowThreshold", BinaryMessage, make([]byte, 127), "Compressed", false},
			{"AtThreshold", BinaryMessage, make([]byte, 128), "Compressed", true},
			{"BelowThresholdWithTakeover", BinaryMessage, make([]byte, 127), "Takeover", false},
			{"AtThresholdWithTakeover", BinaryMessage, make([]byte, 128), "Takeover", true},
			{"NoThreshold", BinaryMessage, make([]byte, 60), "AnyLength", true},
			{"HighThreshold", BinaryMessage, make([]byte, 60000), "NeverReached", false},
			{"Uncompressed", TextMessage | Uncompressed, jsonText(1, 2000), "Compressed", false},
			{"UncompressedWithTakeover", TextMessage | Uncompressed, jsonText(1, 2000), "Takeover", false},
			{"Noise", BinaryMessage, noise(1, 2000), "Compressed", false},
			{"NoiseWithTakeover", BinaryMessage, noise(1, 2000), "Takeover", false},
		} {
			m, err := NewPreparedMessage(row.typ, row.data)
			must(t, err)
			whole := headerSize(len(row.data), !server) + len(row.data)
			got := sentBytes(t, server, settings[row.setting], m)
			if row.compressed && got >= whole || !row.compressed && got != whole {
				t.Errorf("%s: %d bytes, with %d of payload", row.name, got, len(row.data))
			}
		}
	})
}

// A prepared message is compressed once for each window size, when the first connection needs it.
func TestPrepared_SharesOneFrameForEachWindow(t *testing.T) {
	data := jsonText(1, 2000)
	m, err := NewPreparedMessage(TextMessage, data)
	must(t, err)
	frames := map[int]*preparedFrame{}
	for _, name := range []string{"Compressed", "Takeover", "AnyLength", "SmallWindow", "Takeover9", "Takeover12", "Level9"} {
		c, _ := pipeOf(t, true, settings[name])
		bits := c.agreed.deflate.sendBits
		v := m.variant(c)
		if frames[bits] == nil {
			frames[bits] = v
		}
		if &frames[bits].whole.b[0] != &v.whole.b[0] || v == &m.plain || len(v.whole.b) >= len(data) {
			t.Errorf("%s: not the frame of %d bits, or of %d bytes", name, bits, len(v.whole.b))
		}
		again := m.variant(c)
		if &again.whole.b[0] != &v.whole.b[0] {
			t.Errorf("%s: compressed anew", name)
		}
	}
	for i := range m.compressed {
		if bits := i + minWindowBits; frames[bits] == nil && m.compressed[i].Load() != nil {
			t.Errorf("compressed for %d bits, which nobody has", bits)
		}
	}
	plain, _ := pipeOf(t, true, nil)
	if m.variant(plain) != &m.plain {
		t.Error("a connection without compression gets a frame of its own")
	}
}

// The connections that need a variant first may be many.
func TestPrepared_Sends_FromManyAtOnce(t *testing.T) {
	eachRole(t, func(t *testing.T, server bool) {
		data := jsonText(7, 3000)
		m, _ := NewPreparedMessage(TextMessage, data)
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, s := range settings {
			for i := range 4 {
				from, to := pipeOf(t, server, s)
				wg.Go(func() {
					wantOK(t, "the call", sendPrepared(t.Context(), from, m, i))
				})
				wg.Go(func() {
					wantEqual(t, "Read", readOne(t.Context(), to), readResult{TextMessage, string(data), nil})
				})
			}
		}
	})
}

// Prepared messages, which no window was used for, among others that refer to all that went before them: the windows of
// both ends stay in step. The peer inflates with compress/flate.
func TestPrepared_Sends_AmongOthersWithTakeover(t *testing.T) {
	for _, bits := range []int{9, 12, 15} {
		eachRoleIn(t, fmt.Sprint(bits), func(t *testing.T, server bool) {
			r := rand.New(rand.NewPCG(7692, uint64(bits)))
			c, p := connectRaw(t, server, deflating(true), func(cfg *config) { cfg.deflate.threshold, cfg.deflate.sendBits = 50, bits })
			inflates := newPeer(true, bits)
			for range 300 {
				queued := messagesAmong(r)
				for _, q := range queued {
					must(t, waysToWrite[q.way](t.Context(), c, q.typ, q.data))
				}
				for _, q := range queued {
					inflates.wantNext(t, p, q.data)
				}
			}
		})
	}
}

// A queuedMessage is one to send.
type queuedMessage struct {
	typ  MessageType
	data []byte
	way  string
}

// messagesAmong returns a few messages of all kinds, less than a pipe takes.
func messagesAmong(r *rand.Rand) (list []queuedMessage) {
	for range 1 + r.IntN(4) {
		way := []string{"Write", "Send", "Writer", "SendPrepared", "WritePrepared"}[r.IntN(5)]
		q := queuedMessage{BinaryMessage, jsonText(r.Uint64N(20), 1+r.IntN(1<<r.IntN(14))), way}
		switch r.IntN(8) {
		case 0:
			q.data = noise(r.Uint64(), 1+r.IntN(2000))
		case 1:
			q.typ |= Uncompressed
		}
		list = append(list, q)
	}
	return list
}

// wantNext reads a message, in frames of which the first may have RSV1.
func (p *peer) wantNext(t *testing.T, raw *rawPeer, want []byte) {
	t.Helper()
	first, err := raw.in.ReadByte()
	must(t, err)
	f, err := readFrame(io.MultiReader(bytes.NewReader([]byte{first &^ 0x40}), raw.in), raw.server)
	if err != nil || f.first&0xf != 2 {
		t.Fatalf("%v: %v", f, err)
	}
	payload := f.payload
	for f.first < 0x80 {
		f = raw.next()
		payload = append(payload, f.payload...)
	}
	if first&0x40 != 0 {
		p.wantMessage(t, payload, want)
	} else if !bytes.Equal(payload, want) {
		t.Fatalf("%d bytes, want %d", len(payload), len(want))
	}
}
