package websocket

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

var benchSizes = []int{200, 2 << 10, 64 << 10}

// benchMessages are the messages of one connection, in turn: so many that none comes again within a window.
func benchMessages(n int) [][]byte {
	msgs := make([][]byte, max(64, 256<<10/n))
	for i := range msgs {
		msgs[i] = jsonText(uint64(i), n)
	}
	return msgs
}

// BenchmarkDeflate compresses JSON here and in compress/flate at level 1. ratio is compressed to original size.
func BenchmarkDeflate(b *testing.B) {
	for _, takeover := range []bool{false, true} {
		for _, n := range benchSizes {
			name := fmt.Sprintf("takeover=%t/%d", takeover, n)
			msgs := benchMessages(n)
			b.Run(name+"/ours", func(b *testing.B) { benchDeflate(b, msgs, takeover) })
			b.Run(name+"/flate", func(b *testing.B) { benchFlateWriter(b, msgs, takeover) })
		}
	}
}

func benchDeflate(b *testing.B, msgs [][]byte, takeover bool) {
	c := newCompressor(&deflateParams{level: 1, sendBits: 15, sendTakeover: takeover})
	dst := make([]byte, 0, 128<<10)
	total, in := 0, 0
	b.SetBytes(int64(len(msgs[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := msgs[i%len(msgs)]
		out, ok := c.message(dst, p)
		if !ok {
			out = p
		}
		total, in = total+len(out), in+len(p)
	}
	b.ReportMetric(float64(total)/float64(in), "ratio")
}

type countWriter int

func (w *countWriter) Write(p []byte) (int, error) { *w += countWriter(len(p)); return len(p), nil }

func benchFlateWriter(b *testing.B, msgs [][]byte, takeover bool) {
	var out countWriter
	w, _ := flate.NewWriter(&out, flate.BestSpeed)
	in := 0
	b.SetBytes(int64(len(msgs[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if !takeover {
			w.Reset(&out)
		}
		p := msgs[i%len(msgs)]
		w.Write(p)
		w.Flush()
		out -= 4
		in += len(p)
	}
	b.ReportMetric(float64(out)/float64(in), "ratio")
}

// BenchmarkInflate inflates what compress/flate wrote at level 6.
func BenchmarkInflate(b *testing.B) {
	for _, takeover := range []bool{false, true} {
		for _, n := range benchSizes {
			name := fmt.Sprintf("takeover=%t/%d", takeover, n)
			payloads := benchPayloads(b, benchMessages(n), takeover)
			b.Run(name+"/ours", func(b *testing.B) { benchInflate(b, payloads, n, takeover) })
			b.Run(name+"/flate", func(b *testing.B) { benchFlateReader(b, payloads, n, takeover) })
		}
	}
}

// benchPayloads are compressed messages; with takeover they can be inflated again and again, in turn.
func benchPayloads(b *testing.B, msgs [][]byte, takeover bool) [][]byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, 6)
	var payloads [][]byte
	for _, p := range msgs {
		out.Reset()
		if !takeover {
			w.Reset(&out)
		}
		w.Write(p)
		w.Flush()
		payloads = append(payloads, bytes.TrimSuffix(bytes.Clone(out.Bytes()), deflateTail))
	}
	return payloads
}

func benchInflate(b *testing.B, payloads [][]byte, n int, takeover bool) {
	d := newDecompressor(&deflateParams{recvBits: 15, recvTakeover: takeover})
	dst := make([]byte, 0, n)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(payloads) == 0 && takeover {
			d.hist.buf, d.hist.pos = d.hist.buf[:0], 0
		}
		out, _, err := d.inflate(dst, payloads[i%len(payloads)])
		out, done, err2 := d.finish(out)
		if err != nil || err2 != nil || !done || len(out) != n {
			b.Fatal(err, err2, done, len(out))
		}
	}
}

// benchFlateReader keeps one reader for all messages, and resets it where there is no takeover.
func benchFlateReader(b *testing.B, payloads [][]byte, n int, takeover bool) {
	var all []byte
	for _, p := range payloads {
		all = append(append(all, p...), deflateTail...)
	}
	stream, one := bytes.NewReader(all), new(bytes.Reader)
	r := flate.NewReader(stream)
	dst := make([]byte, n)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % len(payloads)
		if !takeover {
			one.Reset(payloads[k])
			r.(flate.Resetter).Reset(one, nil)
		} else if k == 0 {
			stream.Reset(all)
			r.(flate.Resetter).Reset(stream, nil)
		}
		if m, err := io.ReadFull(r, dst); err != nil {
			b.Fatal(m, err)
		}
	}
}

// jsonText is n bytes of a feed of small objects, a different one for each seed.
func jsonText(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	names := []string{"anna", "boris", "chloé", "dmitri", "eve", "farid", "grace", "heidi"}
	words := []string{"the", "price", "of", "order", "was", "changed", "when", "market", "opened", "again", "at", "noon"}
	var b bytes.Buffer
	b.WriteByte('[')
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"%s","ts":"2026-03-%02dT%02d:%02d:%02d.%03dZ","price":%d.%02d,"tags":["%s","%s"],"text":"`,
			r.IntN(1e8), names[r.IntN(len(names))], r.IntN(28)+1, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000),
			r.IntN(5000), r.IntN(100), words[r.IntN(len(words))], words[r.IntN(len(words))])
		for range 4 + r.IntN(8) {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		fmt.Fprintf(&b, `","ok":%t},`, r.IntN(2) == 0)
	}
	return b.Bytes()[:n]
}
