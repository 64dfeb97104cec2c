package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/websocket"
)

// A node is a process that runs one of the scripts in node/.
type node struct {
	t     *testing.T
	stdin io.Writer
	out   *lines
}

func startNode(t *testing.T, script string) *node {
	t.Helper()
	program := find(t, "node", "nodejs")
	install(t)
	cmd := exec.Command(program, filepath.Join("node", script))
	out := newLines()
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &node{t, stdin, out}
}

// install installs ws at the version in package-lock.json, unless it is already installed.
func install(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("node_modules", "ws", "package.json")); err == nil {
		return
	}
	npm := find(t, "npm")
	out, err := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		missing(t, "npm ci: %v\n%s", err, out)
	}
}

// tells reads a line of the script's output.
func (n *node) tells(v any) {
	n.t.Helper()
	line := receive(n.t, n.out.lines, "line from Node")
	if err := json.Unmarshal([]byte(line), v); err != nil {
		n.t.Fatalf("Node says %q: %v", line, err)
	}
}

func (n *node) asks(question, answer any) {
	n.t.Helper()
	b, err := json.Marshal(question)
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.stdin.Write(append(b, '\n')); err != nil {
		n.t.Fatal(err)
	}
	n.tells(answer)
}

// A nodeServer is node/server.js. It prints a report for each connection that has ended.
type nodeServer struct {
	*node
	addr string
}

type report struct {
	Offer, Answer string // Sec-WebSocket-Extensions
	Pings         int
	Error         string
	Code          websocket.StatusCode
	Reason        string
}

func startNodeServer(t *testing.T) nodeServer {
	t.Helper()
	n := startNode(t, "server.js")
	var port int
	n.tells(&port)
	return nodeServer{n, fmt.Sprintf("ws://127.0.0.1:%d", port)}
}

// samples are messages of each kind and of each length of header.
var samples = []websocket.Message{
	{Type: websocket.TextMessage, Data: []byte("Wörld ✓ 👋")},
	{Type: websocket.TextMessage, Data: nil},
	{Type: websocket.BinaryMessage, Data: nil},
	{Type: websocket.BinaryMessage, Data: []byte{0, 1, 0xff, 0xc3, 0x28}},
	{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("x"), 125)},
	{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("y"), 126)},
	{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte{0xfe}, 65535)},
	{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte{0xfd}, 65536)},
	{Type: websocket.TextMessage, Data: bytes.Repeat([]byte("é"), 1<<19)},
	{Type: websocket.BinaryMessage, Data: bytes.Repeat([]byte("1 MiB..."), 1<<17)},
}

func TestClientExchangesMessagesWithNode(t *testing.T) {
	server := startNodeServer(t)
	c := dial(t, server.addr+"/echo", nil)
	exchange(t, c, samples)
	if err := c.Close(3001, "bye ✓"); err != nil {
		t.Errorf("Close: %v", err)
	}
	var told report
	server.tells(&told)
	if told.Code != 3001 || told.Reason != "bye ✓" || told.Error != "" {
		t.Errorf("Node saw %+v", told)
	}
}

// exchange sends each message and checks that it comes back.
func exchange(t *testing.T, c *websocket.Conn, messages []websocket.Message) {
	t.Helper()
	ctx := patient(t)
	for i, m := range messages {
		if err := c.Write(ctx, m.Type, m.Data); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		typ, p, err := c.Read(ctx)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if typ != m.Type || !bytes.Equal(p, m.Data) {
			t.Fatalf("message %d: got %d bytes of type %d, want %d of type %d", i, len(p), typ, len(m.Data), m.Type)
		}
	}
}

func TestClientSendsFragmentsToNode(t *testing.T) {
	server := startNodeServer(t)
	c := dial(t, server.addr+"/echo", nil)
	ctx := patient(t)
	w, err := c.Writer(ctx, websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	go c.Ping(ctx) // between the frames of the message, if it comes in time
	for _, part := range []string{"Hel", "lo, ", "W\xc3", "\xb6rld"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, p, err := c.Read(ctx); err != nil || string(p) != "Hello, Wörld" {
		t.Errorf("got %q, %v", p, err)
	}
}

func TestClientReceivesFragmentsAndPingsFromNode(t *testing.T) {
	server := startNodeServer(t)
	c := dial(t, server.addr+"/parts", nil)
	ctx := patient(t)
	for _, want := range []websocket.Message{
		{Type: websocket.TextMessage, Data: []byte("Hello, Wörld")},
		{Type: websocket.BinaryMessage, Data: []byte("Hello, Wörld")},
	} {
		typ, p, err := c.Read(ctx)
		if err != nil || typ != want.Type || !bytes.Equal(p, want.Data) {
			t.Errorf("got %q of type %d, %v", p, typ, err)
		}
	}
}

func TestClientAndNodePingEachOther(t *testing.T) {
	server := startNodeServer(t)
	c := dial(t, server.addr+"/ping", nil)
	ctx := patient(t)
	if _, p, err := c.Read(ctx); err != nil || string(p) != "are you there?" {
		t.Fatalf("our pong carried %q, %v", p, err)
	}
	reading := make(chan error, 1)
	go func() {
		_, _, err := c.Read(ctx)
		reading <- err
	}()
	if rtt, err := c.Ping(ctx); err != nil || rtt <= 0 {
		t.Errorf("Ping: %v, %v", rtt, err)
	}
	if err := c.Close(websocket.StatusGoingAway, ""); err != nil {
		t.Errorf("Close: %v", err)
	}
	receive(t, reading, "end of the read")
	var told report
	server.tells(&told)
	if told.Pings != 1 || told.Code != websocket.StatusGoingAway || told.Error != "" {
		t.Errorf("Node saw %+v", told)
	}
}

// closes are close frames as the peer reports them: without a code it is 1005 (RFC 6455, section 7.1.5).
var closes = []websocket.CloseError{
	{Code: 1000}, {Code: 1001, Reason: "bye"}, {Code: 1008, Reason: "no"}, {Code: 1011}, {Code: 1013, Reason: "later"},
	{Code: 3000, Reason: "Grüße ✓"}, {Code: 4999, Reason: strings.Repeat("x", 123)},
}

func TestClientIsClosedByNode(t *testing.T) {
	server := startNodeServer(t)
	for _, want := range append(closes, websocket.CloseError{Code: 1005}) {
		query := url.Values{"code": {fmt.Sprint(int(want.Code))}, "reason": {want.Reason}}.Encode()
		if want.Code == 1005 {
			query = ""
		}
		c := dial(t, server.addr+"/close?"+query, nil)
		_, _, err := c.Read(patient(t))
		var got *websocket.CloseError
		if !errors.As(err, &got) || *got != want {
			t.Errorf("closed with %v, want %v", err, want)
		}
		var told report
		server.tells(&told)
		if told.Code != want.Code { // our answer repeats the code
			t.Errorf("Node was answered %v, want %v", told.Code, want.Code)
		}
	}
}

func TestClientClosesNode(t *testing.T) {
	server := startNodeServer(t)
	for _, want := range closes {
		c := dial(t, server.addr+"/echo", nil)
		if err := c.Close(want.Code, want.Reason); err != nil {
			t.Errorf("Close(%d): %v", want.Code, err)
		}
		var told report
		server.tells(&told)
		if told.Code != want.Code || told.Reason != want.Reason || told.Error != "" {
			t.Errorf("Node saw %+v, want %+v", told, want)
		}
	}
}

func TestClientSubprotocolChosenByNode(t *testing.T) {
	server := startNodeServer(t)
	c := dial(t, server.addr+"/echo", &websocket.Options{Subprotocols: []string{"one", "two"}})
	if got := c.Subprotocol(); got != "two" {
		t.Errorf("subprotocol %q, want the server's choice, the last", got)
	}
}

// A job is what node/client.js does with one connection, and its outcome.
type job struct {
	URL       string         `json:"url"`
	Options   map[string]any `json:"options,omitempty"`
	Protocols []string       `json:"protocols,omitempty"`
	Messages  []nodeMessage  `json:"messages,omitempty"`
	Fragments []string       `json:"fragments,omitempty"`
	Ping      string         `json:"ping,omitempty"`
	Close     []any          `json:"close,omitempty"`
}

type nodeMessage struct {
	Binary bool   `json:"binary"`
	Data   []byte `json:"base64"`
}

type outcome struct {
	Error    string
	Answer   string
	Protocol string
	Received []bool
	Whole    string
	Pongs    []string
	Pings    int
	Code     websocket.StatusCode
	Reason   string
}

func startPeer(t *testing.T, opts *websocket.Options) (p *peer, url string) {
	t.Helper()
	p = newPeer(opts)
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return p, strings.Replace(server.URL, "http", "ws", 1)
}

func nodeMessages(messages []websocket.Message) (list []nodeMessage) {
	for _, m := range messages {
		list = append(list, nodeMessage{m.Type == websocket.BinaryMessage, append([]byte{}, m.Data...)})
	}
	return list
}

// allReceived reports whether each of n messages came back as it was sent.
func (o outcome) allReceived(n int) bool {
	for _, ok := range o.Received {
		if !ok {
			return false
		}
	}
	return len(o.Received) == n
}

func TestServerExchangesMessagesWithNode(t *testing.T) {
	peer, url := startPeer(t, nil)
	var got outcome
	startNode(t, "client.js").asks(job{URL: url + "/echo", Messages: nodeMessages(samples), Close: []any{3001, "bye ✓"}}, &got)
	if !got.allReceived(len(samples)) || got.Code != 3001 { // our answer repeats the code
		t.Errorf("Node saw %+v", got)
	}
	end := receive(t, peer.arrivals, "end of the connection").end
	if want := (websocket.CloseError{Code: 3001, Reason: "bye ✓"}); !closedWith(end, want) {
		t.Errorf("our read ended with %v, want %v", end, want)
	}
}

func closedWith(err error, want websocket.CloseError) bool {
	var got *websocket.CloseError
	return errors.As(err, &got) && *got == want
}

func TestServerReceivesFragmentsAndPingsFromNode(t *testing.T) {
	_, url := startPeer(t, nil)
	var got outcome
	startNode(t, "client.js").asks(job{
		URL: url + "/echo", Fragments: []string{"Hel", "", "lo, ", "Wörld"}, Ping: "p", Close: []any{1000},
	}, &got)
	if got.Whole != "Hello, Wörld" || len(got.Pongs) == 0 || got.Pongs[len(got.Pongs)-1] != "p3" || got.Code != 1000 {
		t.Errorf("Node saw %+v", got)
	}
}

func TestServerSendsFragmentsToNode(t *testing.T) {
	_, url := startPeer(t, nil)
	var got outcome
	startNode(t, "client.js").asks(job{URL: url + "/parts", Fragments: []string{"x"}, Close: []any{1000}}, &got)
	if got.Whole != "Hello, Wörld" || got.Error != "" {
		t.Errorf("Node saw %+v", got)
	}
}

func TestServerPingsNode(t *testing.T) {
	_, url := startPeer(t, nil)
	var got outcome
	startNode(t, "client.js").asks(job{URL: url + "/ping", Messages: []nodeMessage{{Data: []byte{}}}, Close: []any{1000}}, &got)
	if got.Pings != 1 || got.Code != 1000 {
		t.Errorf("Node saw %+v", got)
	}
}

func TestServerClosesNode(t *testing.T) {
	peer, addr := startPeer(t, nil)
	client := startNode(t, "client.js")
	for _, want := range closes {
		var got outcome
		query := url.Values{"code": {fmt.Sprint(int(want.Code))}, "reason": {want.Reason}}
		client.asks(job{URL: addr + "/close?" + query.Encode()}, &got)
		if got.Code != want.Code || got.Reason != want.Reason {
			t.Errorf("Node saw %+v, want %+v", got, want)
		}
		if end := receive(t, peer.arrivals, "end of the connection").end; end != nil {
			t.Errorf("Close(%d): %v", want.Code, end)
		}
	}
}

func TestServerIsClosedByNode(t *testing.T) {
	peer, addr := startPeer(t, nil)
	client := startNode(t, "client.js")
	for _, want := range closes {
		var got outcome
		client.asks(job{URL: addr + "/echo", Close: []any{want.Code, want.Reason}}, &got)
		if got.Code != want.Code || got.Error != "" {
			t.Errorf("Node was answered %+v, want %v", got, want.Code)
		}
		if end := receive(t, peer.arrivals, "end of the connection").end; !closedWith(end, want) {
			t.Errorf("our read ended with %v, want %v", end, want)
		}
	}
}

func TestServerSubprotocolWithNode(t *testing.T) {
	_, addr := startPeer(t, &websocket.Options{Subprotocols: []string{"three", "two", "one"}})
	var got outcome
	startNode(t, "client.js").asks(job{URL: addr + "/echo", Protocols: []string{"one", "two"}, Close: []any{1000}}, &got)
	if got.Protocol != "two" {
		t.Errorf("subprotocol %q, want the server's first choice among those offered", got.Protocol)
	}
}
