package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/websocket"
)

// patienceOfTests bounds each wait. It is long because an election in NATS takes up to ten seconds.
const patienceOfTests = 45 * time.Second

// TestMain makes the test binary a chat node or a NATS server when a test starts it as another process.
func TestMain(m *testing.M) {
	switch os.Getenv("CHAT_TEST_PROCESS") {
	case "node":
		main()
	case "nats":
		serveNATS(os.Args[1], os.Args[2], os.Args[3])
	default:
		os.Setenv("NATS_NAME", "nats-1") // for nats.conf
		os.Setenv("CHAT_PASSWORD", "secret")
		flag.Parse()
		flag.Set("test.parallel", "8") // the tests wait most of the time
		if !testing.Verbose() {
			log.SetOutput(io.Discard)
		}
		os.Exit(m.Run())
	}
}

func serveNATS(addr, cluster, routes string) {
	dir, _ := os.MkdirTemp(os.Getenv("CHAT_TEST_DIR"), "")
	url, _, err := Embedded{Addr: addr, Dir: dir, Cluster: cluster, Routes: routes}.Start()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("nats at", url)
	select {}
}

// A process is this test binary, run as a chat node or a NATS server.
type process struct {
	*exec.Cmd
	t   *testing.T
	out *bufio.Scanner
	url string
}

func startProcess(t *testing.T, role string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), t: t}
	p.Env = append(os.Environ(), "CHAT_TEST_PROCESS="+role, "CHAT_TEST_DIR="+t.TempDir())
	if testing.Verbose() {
		p.Stderr = os.Stderr
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill ends the process by SIGKILL.
func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

// readURL returns the URL that the process prints first.
func (p *process) readURL() string {
	p.t.Helper()
	for p.out.Scan() {
		for _, word := range strings.Fields(p.out.Text()) {
			if strings.Contains(word, "://") {
				return word
			}
		}
	}
	p.t.Fatal("the process ended before it printed its URL")
	return ""
}

// startNATS runs a NATS server in this process.
func startNATS(t *testing.T) (url string) {
	t.Helper()
	url, stop, err := Embedded{Addr: "127.0.0.1:0", Dir: t.TempDir()}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return url
}

func openBus(t *testing.T, url string) *Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	b, err := OpenBus(ctx, url, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// A testNode is a Node in this process.
type testNode struct {
	*Node
	url  string
	stop func() error // drains it and returns the error of Serve
}

func startNode(t *testing.T, nats string, change ...func(*Node)) testNode {
	t.Helper()
	n, err := newNode(t.Context(), nats, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(n)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.Serve(ctx, ln) }()
	stop := sync.OnceValue(func() error { cancel(); return <-served })
	t.Cleanup(func() { stop() })
	return testNode{n, "http://" + ln.Addr().String(), stop}
}

// A member acts as a page, without a browser.
type member struct {
	*websocket.Conn
	t      *testing.T
	cookie *http.Cookie
	room   string
	at     cursor // as the page keeps it
}

func signIn(t *testing.T, node, name string) *http.Cookie {
	t.Helper()
	r, err := http.PostForm(node+"/login", url.Values{"name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if len(r.Cookies()) != 1 {
		t.Fatalf("signing in as %q: %s", name, r.Status)
	}
	return r.Cookies()[0]
}

func dial(ctx context.Context, node, room string, cookie *http.Cookie, at cursor) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patienceOfTests)
	defer cancel()
	q := url.Values{"room": {room}}
	if at.stream != "" {
		q.Set("stream", at.stream)
		q.Set("after", strconv.FormatUint(at.seq, 10))
	}
	header := http.Header{}
	if cookie != nil {
		header.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
	return websocket.Dial(ctx, node+"/ws?"+q.Encode(), &websocket.Options{Header: header})
}

func join(t *testing.T, node, room, name string) *member {
	t.Helper()
	c := &member{t: t, cookie: signIn(t, node, name), room: room}
	c.connect(node)
	return c
}

// connect connects c to node and resumes where c left off.
func (c *member) connect(node string) {
	c.t.Helper()
	conn, err := dial(c.t.Context(), node, c.room, c.cookie, c.at)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.CloseNow() })
	c.Conn = conn
}

func (c *member) send(id, text string) {
	c.t.Helper()
	if err := c.WriteJSON(c.t.Context(), said{ID: id, Text: text}); err != nil {
		c.t.Fatal(err)
	}
}

// say sends a text with a new id.
func (c *member) say(text string) {
	c.t.Helper()
	c.send(rand.Text(), text)
}

// next returns the next event, or the error of the connection.
func (c *member) next() (event, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patienceOfTests)
	defer cancel()
	var e event
	err := c.ReadJSON(ctx, &e)
	if e.Stream != "" && e.Stream != c.at.stream {
		c.at = cursor{stream: e.Stream}
	}
	if e.Seq != 0 {
		c.at.seq = e.Seq
	}
	return e, err
}

// until returns the first event that f accepts.
func (c *member) until(what string, f func(event) bool) event {
	c.t.Helper()
	for {
		e, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		if f(e) {
			return e
		}
	}
}

// hears checks that the next messages have these texts. It returns their events.
func (c *member) hears(texts ...string) (events []event) {
	c.t.Helper()
	for i, text := range texts {
		e := c.until("a message", func(e event) bool { return e.Seq != 0 || e.Gap || e.Refused != "" })
		if e.Text != text {
			c.t.Fatalf("message %d of %d: got %+v, want %q", i+1, len(texts), e, text)
		}
		events = append(events, e)
	}
	return events
}

// sees waits until these people are in the room.
func (c *member) sees(names ...string) {
	c.t.Helper()
	c.until(fmt.Sprint("people ", names), func(e event) bool { return fmt.Sprint(e.People) == fmt.Sprint(names) })
}

func (c *member) hasOnline(want bool) {
	c.t.Helper()
	c.until(fmt.Sprint("online ", want), func(e event) bool { return e.Online != nil && *e.Online == want })
}

// texts returns n texts that begin with prefix.
func texts(prefix string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s %d", prefix, i))
	}
	return all
}

// A link is a network between a node and NATS that can be cut.
type link struct {
	ln     net.Listener
	target string

	mu    sync.Mutex // guards the fields below
	isCut bool
	conns map[net.Conn]bool
}

// newLink returns a link to the NATS server at natsURL and the URL of its near end.
func newLink(t *testing.T, natsURL string) (*link, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{ln: ln, target: strings.TrimPrefix(natsURL, "nats://"), conns: make(map[net.Conn]bool)}
	t.Cleanup(func() { ln.Close(); l.cut() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			go l.join(near)
		}
	}()
	return l, "nats://" + ln.Addr().String()
}

func (l *link) join(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.add(near, far) {
		return
	}
	go func() {
		io.Copy(far, near)
		far.Close()
	}()
	io.Copy(near, far)
}

func (l *link) add(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.conns[c] = true
	}
	return !l.isCut
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = true
	for c := range l.conns {
		c.Close()
	}
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = false
}
