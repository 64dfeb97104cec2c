package main

import (
	"bytes"
	"fmt"
	"slices"
)

// compression sends and receives compressed JSON documents, at the levels a user would choose.
func (b *bench) compression() error {
	cs, end, err := b.spawnAll(func(l library) bool { return l.compress && l.handler != nil })
	if err != nil {
		return err
	}
	defer end()
	for _, size := range []int{256, 4 << 10} {
		if err := b.deflating(cs, size); err != nil {
			return err
		}
		if err := b.inflating(cs, size); err != nil {
			return err
		}
	}
	return nil
}

// settings are those of each library that its users would choose between.
func settings(l library) []options {
	var all []options
	levels := map[string][]int{"ours": {0, 1, 6, 9}, "gorilla": {1, 6}, "gws": {1, 6}, "nbio": {1, 6}, "gobwas": {1, 6}, "coder": {0}}
	for _, level := range levels[l.name] {
		all = append(all, options{Compress: true, Level: level})
	}
	if l.takeover {
		for _, level := range levels[l.name][:1] {
			all = append(all, options{Compress: true, Takeover: true, Level: level})
		}
	}
	return all
}

// deflating has the server push the corpus.
func (b *bench) deflating(cs []*child, size int) error {
	var subjects []*subject
	for _, c := range cs {
		for _, o := range settings(c.lib) {
			s, err := deflater(c, o, size)
			if err != nil {
				return fmt.Errorf("%s: %w", label(c.lib.name, o), err)
			}
			subjects = append(subjects, s)
		}
	}
	return b.cell("compression", "send JSON of "+sizeName(size), "message", subjects)
}

// deflater checks the corpus as it arrives, once, and then measures pushes.
func deflater(c *child, o options, size int) (*subject, error) {
	addr, err := c.listen("hub", o)
	if err != nil {
		return nil, err
	}
	raw, err := dialRaw(addr, o, 256<<10)
	if err != nil {
		return nil, err
	}
	defer raw.drop()
	if _, err := c.call(request{Op: "push", Addr: addr, Size: size}); err != nil {
		return nil, err
	}
	in := &inflater{takeover: o.Takeover}
	for _, want := range corpus(size) {
		if err := checkReply(raw, in, want); err != nil {
			return nil, err
		}
	}
	return pusher(c, o, request{Op: "push", Size: size})
}

// inflating has the load generator send documents that were compressed beforehand.
func (b *bench) inflating(cs []*child, size int) error {
	docs := corpus(size)
	var message []byte
	for _, d := range docs {
		message = appendFrame(message, finBit|compressedBit|opText, true, deflated(d))
	}
	ask := appendFrame(nil, finBit|opBinary, true, []byte{1})
	x := exchange{out: append(bytes.Clone(message), ask...), replies: 1, messages: int64(len(docs))}
	var subjects []*subject
	for _, c := range cs {
		for _, o := range settings(c.lib) {
			o.Level = 0
			if slices.ContainsFunc(subjects, func(s *subject) bool { return s.name == label(c.lib.name, o) }) {
				continue
			}
			s, err := inflating(c, o, message, docs, x)
			if err != nil {
				return fmt.Errorf("%s: %w", label(c.lib.name, o), err)
			}
			subjects = append(subjects, s)
		}
	}
	return b.cell("compression", "receive JSON of "+sizeName(size), "message", subjects)
}

func inflating(c *child, o options, message []byte, docs [][]byte, x exchange) (*subject, error) {
	addr, err := c.listen("echo", o)
	if err != nil {
		return nil, err
	}
	raw, err := dialRaw(addr, o, 4096)
	if err != nil {
		return nil, err
	}
	defer raw.drop()
	if _, err := raw.Write(message); err != nil {
		return nil, err
	}
	in := &inflater{takeover: o.Takeover}
	for _, want := range docs {
		if err := checkReply(raw, in, want); err != nil {
			return nil, err
		}
	}
	return exchanges(c, "sink", o, 8, 4096, x, func(f fleet) error {
		return parallel(len(f), 8, func(i int) error {
			if _, err := f[i].Write(x.out); err != nil {
				return err
			}
			return checkReply(f[i], &inflater{takeover: o.Takeover}, []byte{1})
		})
	})
}
