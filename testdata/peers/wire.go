package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
)

// Frames as bytes, made and read without any of the libraries.

const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	finBit        = 0x80
	compressedBit = 0x40
	maskBit       = 0x80
)

var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// appendFrame appends a frame with the first byte head; masked: as a client sends it.
func appendFrame(b []byte, head byte, masked bool, p []byte) []byte {
	bit := byte(0)
	if masked {
		bit = maskBit
	}
	switch {
	case len(p) < 126:
		b = append(b, head, bit|byte(len(p)))
	case len(p) < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, head, bit|126), uint16(len(p)))
	default:
		b = binary.BigEndian.AppendUint64(append(b, head, bit|127), uint64(len(p)))
	}
	if !masked {
		return append(b, p...)
	}
	b = append(b, maskKey[:]...)
	at := len(b)
	b = append(b, p...)
	for i := range p {
		b[at+i] ^= maskKey[i&3]
	}
	return b
}

// appendFragments appends one message in n fragments.
func appendFragments(b []byte, op byte, p []byte, n int) []byte {
	for i := range n {
		head := op
		if i == n-1 {
			head |= finBit
		}
		b = appendFrame(b, head, true, p[i*len(p)/n:(i+1)*len(p)/n])
		op = opContinuation
	}
	return b
}

// frameReader reads frames of either direction.
type frameReader struct{ *bufio.Reader }

type frameHead struct {
	first  byte
	masked bool
	key    [4]byte
	length int
}

func (f frameReader) head() (h frameHead, err error) {
	p, err := f.Peek(2)
	if err != nil {
		return h, err
	}
	h.first, h.masked, h.length = p[0], p[1]&maskBit != 0, int(p[1]&127)
	size, extra := 2, 0
	switch h.length {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	size += extra
	if h.masked {
		size += 4
	}
	if p, err = f.Peek(size); err != nil {
		return h, err
	}
	switch extra {
	case 2:
		h.length = int(binary.BigEndian.Uint16(p[2:]))
	case 8:
		h.length = int(binary.BigEndian.Uint64(p[2:]))
	}
	if h.masked {
		copy(h.key[:], p[size-4:])
	}
	_, err = f.Discard(size)
	return h, err
}

// skip skips one data message and returns its first byte and payload length. It drops control frames.
func (f frameReader) skip() (first byte, n int, err error) {
	for started := false; ; {
		h, err := f.head()
		if err != nil {
			return 0, 0, err
		}
		if _, err = f.Discard(h.length); err != nil {
			return 0, 0, err
		}
		if h.first&0xf == opClose {
			return 0, 0, fmt.Errorf("closed by the process under test")
		}
		if h.first&0xf > opBinary {
			continue
		}
		if !started {
			first, started = h.first, true
		}
		n += h.length
		if h.first&finBit != 0 {
			return first, n, nil
		}
	}
}

// message reads one data message.
func (f frameReader) message() (first byte, p []byte, err error) {
	for started := false; ; {
		h, err := f.head()
		if err != nil {
			return 0, nil, err
		}
		at := len(p)
		p = append(p, make([]byte, h.length)...)
		if _, err = io.ReadFull(f, p[at:]); err != nil {
			return 0, nil, err
		}
		if h.first&0xf == opClose {
			return 0, nil, fmt.Errorf("closed by the process under test: % x", p[at:])
		}
		if h.first&0xf > opBinary {
			p = p[:at]
			continue
		}
		if !started {
			first, started = h.first, true
		}
		for i := at; h.masked && i < len(p); i++ {
			p[i] ^= h.key[(i-at)&3]
		}
		if h.first&finBit != 0 {
			return first, p, nil
		}
	}
}

// pattern is a payload of n bytes that repeats with no power of two.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i/251)
	}
	return p
}

// textOf is n bytes or a little less of whole characters.
func textOf(kind string, n int) []byte {
	sample := map[string]string{
		"ASCII":   "The quick brown fox jumps over the lazy dog. ",
		"Chinese": "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏",
		"emoji":   "😀🚀🌍🎉🧪🦊🍕🎵",
	}[kind]
	s := strings.Repeat(sample, n/len(sample)+1)
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return []byte(s[:n])
}

// corpus returns similar JSON documents of n bytes each, the same in every process. Together they exceed a window of 32
// KiB.
func corpus(n int) [][]byte {
	docs, ok := corpora.Load(n)
	if !ok {
		docs, _ = corpora.LoadOrStore(n, makeCorpus(n))
	}
	return docs.([][]byte)
}

var corpora sync.Map // int to [][]byte

func makeCorpus(n int) [][]byte {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	words := strings.Fields("alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo")
	docs := make([][]byte, 128<<10/n)
	for i := range docs {
		for len(docs[i]) < n {
			entry := map[string]any{
				"id": rng.Uint32(), "user": words[rng.IntN(len(words))], "price": float64(rng.IntN(1_000_000)) / 100,
				"tags": []string{words[rng.IntN(len(words))], words[rng.IntN(len(words))]}, "active": rng.IntN(2) == 0,
			}
			b, _ := json.Marshal(entry)
			docs[i] = append(append(docs[i], b...), ',')
		}
		docs[i] = docs[i][:n]
	}
	return docs
}

// deflated compresses p as one message of RFC 7692 that does not refer to earlier ones.
func deflated(p []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.DefaultCompression)
	_, _ = w.Write(p)
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// inflater undoes permessage-deflate, and keeps the window between messages if takeover is on.
type inflater struct {
	takeover bool
	window   []byte
}

func (i *inflater) inflate(p []byte) ([]byte, error) {
	tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff"
	r := flate.NewReaderDict(io.MultiReader(bytes.NewReader(p), strings.NewReader(tail)), i.window)
	out, err := io.ReadAll(r)
	if i.takeover {
		i.window = append(i.window, out...)
		i.window = i.window[max(0, len(i.window)-32<<10):]
	}
	return out, err
}
