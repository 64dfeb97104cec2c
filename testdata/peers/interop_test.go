package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// Our client talks to their servers and their clients to ours. What neither side can fail at is left to the package's own tests.

const patience = 10 * time.Second

type arrival struct {
	text bool
	data []byte
}

// An end is one side of a connection under test and what its library reported.
type end struct {
	conn
	messages chan arrival
	pongs    chan bool
	closed   chan int
}

func newEnd() *end {
	return &end{messages: make(chan arrival, 8), pongs: make(chan bool, 8), closed: make(chan int, 8)}
}

func (e *end) events() *events {
	return events{
		message: func(_ conn, text bool, p []byte) { e.messages <- arrival{text, bytes.Clone(p)} },
		pong:    func(conn) { e.pongs <- true },
		closed:  func(_ conn, code int) { e.closed <- code },
	}.withDefaults()
}

func await[T any](t *testing.T, what string, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
	return v
}

// connect joins a client of one library to a server of another.
func connect(t *testing.T, clientLib, serverLib library, o options) (client, server *end) {
	t.Helper()
	o.Shared = true
	client, server = newEnd(), newEnd()
	opened := make(chan conn, 1)
	ev := server.events()
	ev.open = func(c conn) { opened <- c }
	addr, err := listen(serverLib, o, ev)
	if err != nil {
		t.Fatal(err)
	}
	if client.conn, err = clientLib.dial("ws://"+addr+"/", o, client.events()); err != nil {
		t.Fatal(err)
	}
	server.conn = await(t, "open", opened)
	return client, server
}

func every(library) bool { return true }

// forEachPair runs f with our client at the server of each peer that can, and its client at our server.
func forEachPair(t *testing.T, can func(library) bool, f func(t *testing.T, client, server library)) {
	for _, peer := range libraries {
		if peer.name == ours.name || !can(peer) {
			continue
		}
		t.Run("our client to "+peer.name, func(t *testing.T) { f(t, ours, peer) })
		if peer.dial != nil {
			t.Run(peer.name+" client to ours", func(t *testing.T) { f(t, peer, ours) })
		}
	}
}

var interopMessages = []struct {
	name string
	arrival
}{
	{"text", arrival{true, []byte("Hello, 世界 🌍")}},
	{"binary", arrival{false, pattern(1000)}},
	{"empty text", arrival{true, nil}},
	{"empty binary", arrival{false, nil}},
	{"125 bytes", arrival{false, pattern(125)}},
	{"126 bytes", arrival{false, pattern(126)}},
	{"65535 bytes", arrival{false, pattern(65535)}},
	{"65536 bytes", arrival{false, pattern(65536)}},
	{"1 MiB of text", arrival{true, textOf("Chinese", 1<<20)}},
	{"1 MiB", arrival{false, pattern(1 << 20)}},
}

func TestMessages(t *testing.T) {
	for _, o := range []options{{}, {Compress: true}, {Compress: true, Takeover: true}} {
		t.Run(compressionName(o), func(t *testing.T) {
			can := func(l library) bool { return (l.compress || !o.Compress) && (l.takeover || !o.Takeover) }
			forEachPair(t, can, func(t *testing.T, client, server library) { testMessages(t, client, server, o) })
		})
	}
}

func compressionName(o options) string {
	switch {
	case o.Takeover:
		return "context takeover"
	case o.Compress:
		return "compressed"
	}
	return "plain"
}

func testMessages(t *testing.T, clientLib, serverLib library, o options) {
	client, server := connect(t, clientLib, serverLib, o)
	for range 2 { // the second time the windows hold the first
		for _, m := range interopMessages {
			empty := len(m.data) == 0
			if !(empty && serverLib.noEmpty) {
				passes(t, m.name+" from the client", client, server, m.arrival)
			}
			if !(empty && clientLib.noEmpty) {
				passes(t, m.name+" from the server", server, client, m.arrival)
			}
		}
	}
	if o.Compress {
		checkShrunk(t, client.conn, server.conn)
	}
}

func passes(t *testing.T, name string, from, to *end, want arrival) {
	t.Helper()
	errs := make(chan error, 1)
	go func() { errs <- from.send(want.text, want.data) }()
	got := await(t, name, to.messages)
	if got.text != want.text || !bytes.Equal(got.data, want.data) {
		t.Fatalf("%s: %d bytes arrived that differ from the %d sent", name, len(got.data), len(want.data))
	}
	if err := await(t, "end of the write", errs); err != nil {
		t.Fatal(name, err)
	}
}

// checkShrunk looks at our end: compression was not only agreed on but used, both ways.
func checkShrunk(t *testing.T, ends ...conn) {
	t.Helper()
	for _, e := range ends {
		if c, ok := e.(oursConn); ok {
			s := c.c.Stats()
			if s.BytesWritten*2 > s.PayloadWritten || s.BytesRead*2 > s.PayloadRead {
				t.Errorf("not compressed: %+v", s)
			}
		}
	}
}

func TestFragments(t *testing.T) {
	forEachPair(t, every, func(t *testing.T, clientLib, serverLib library) {
		client, server := connect(t, clientLib, serverLib, options{})
		for _, n := range []int{2, 7} {
			parts := bytes.SplitAfterN(bytes.Repeat([]byte("fragment "), 3000), []byte("t "), n)
			want := bytes.Join(parts, nil)
			for _, way := range [][2]*end{{client, server}, {server, client}} {
				if err := way[0].sendParts(true, parts...); err != nil {
					t.Fatal(err)
				}
				if got := await(t, "message", way[1].messages); !got.text || !bytes.Equal(got.data, want) {
					t.Fatalf("%d bytes arrived that differ from the %d sent", len(got.data), len(want))
				}
			}
		}
	})
}

func TestPings(t *testing.T) {
	forEachPair(t, every, func(t *testing.T, clientLib, serverLib library) {
		client, server := connect(t, clientLib, serverLib, options{})
		for _, e := range []*end{client, server} {
			if err := e.ping(); err != nil {
				t.Fatal(err)
			}
			await(t, "pong", e.pongs)
		}
		passes(t, "message after pings", client, server, arrival{true, []byte("on")})
	})
}

func TestClosings(t *testing.T) {
	closings := []struct {
		code   int
		reason string
	}{{1000, ""}, {1000, "bye"}, {1001, "going"}, {1011, "trouble"}, {3000, "registered"}, {4999, strings.Repeat("é", 61)}}
	forEachPair(t, every, func(t *testing.T, clientLib, serverLib library) {
		for _, cl := range closings {
			client, server := connect(t, clientLib, serverLib, options{})
			ends(t, "client", client, server, cl.code, cl.reason)
			client, server = connect(t, clientLib, serverLib, options{})
			ends(t, "server", server, client, cl.code, cl.reason)
		}
	})
}

// ends closes one end and looks for the code at the other, and for the end of both.
func ends(t *testing.T, who string, from, to *end, code int, reason string) {
	t.Helper()
	errs := make(chan error, 1)
	go func() { errs <- from.shut(code, reason) }()
	if got := await(t, "close at the peer", to.closed); got != code {
		t.Errorf("%s closed with %d %q, the peer saw %d", who, code, reason, got)
	}
	if err := await(t, "end of the closing handshake", errs); err != nil {
		t.Errorf("%s closing with %d %q: %v", who, code, reason, err)
	}
	await(t, "end of the closing side", from.closed)
}

// TestOrder is the order of the libraries in a bench: there and back, another one first in each round.
func TestOrder(t *testing.T) {
	for pass, want := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}} {
		if got := order(3, pass); !slices.Equal(got, want) {
			t.Errorf("pass %d: %v, want %v", pass, got, want)
		}
	}
}
