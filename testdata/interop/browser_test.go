package interop

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/websocket"
)

// converse is a function for a page. It opens a WebSocket, sends messages, compares the echoes, closes, and resolves to a
// conversation.
const converse = `
async function converse({ path, protocols = [], silent, close }) {
	const told = { received: [], failed: false, code: 0, reason: "", clean: false };
	const messages = silent ? [] : [
		"Wörld ✓ 👋", "", new ArrayBuffer(0), new Uint8Array([0, 1, 255, 0xc3, 0x28]).buffer,
		"x".repeat(125), "y".repeat(126), new ArrayBuffer(65535), new ArrayBuffer(65536),
		"é".repeat(1 << 19), new Uint8Array(1 << 20).map((_, i) => i * i >> 7).buffer,
		...Array(5).fill(JSON.stringify({ user: "Ann", room: "lobby", text: "the same words ".repeat(20) })),
	];
	const same = (a, b) => typeof a === typeof b &&
		(typeof a === "string" ? a === b : a.byteLength === b.byteLength && new Uint8Array(a).every((x, i) => x === new Uint8Array(b)[i]));

	const ws = new WebSocket(new URL(path, location.href.replace("http", "ws")), protocols);
	ws.binaryType = "arraybuffer";
	ws.onerror = () => told.failed = true;
	const next = () => new Promise(resolve => ws.onmessage = e => resolve(e.data));
	const closed = new Promise(resolve => ws.onclose = resolve);
	const opened = await Promise.race([closed, new Promise(resolve => ws.onopen = () => resolve(true))]) === true;
	if (opened) {
		[told.extensions, told.protocol] = [ws.extensions, ws.protocol];
		for (const message of messages) {
			const answer = next();
			ws.send(message);
			told.received.push(same(message, await answer));
		}
		if (close) ws.close(...close);
	}
	const end = await closed;
	return Object.assign(told, { opened, code: end.code, reason: end.reason, clean: end.wasClean });
}`

type conversation struct {
	Opened, Failed, Clean bool
	Extensions, Protocol  string
	Received              []bool
	Code                  websocket.StatusCode
	Reason                string
}

func (p *tab) converse(args string) (c conversation) {
	p.t.Helper()
	p.eval(converse+"; await converse("+args+")", &c)
	return c
}

// transports start a server for each way in which a browser connects. The last one needs the environment of TestMain.
var transports = map[string]func(http.Handler) *httptest.Server{
	"http": httptest.NewServer,
	"tls":  httptest.NewTLSServer,
	"h2": func(h http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(h)
		server.EnableHTTP2 = true
		server.StartTLS()
		return server
	},
}

var compressions = map[string]*websocket.Compression{
	"plain": nil, "compressed": {}, "takeover": {ContextTakeover: true}, "takeover of 1 KiB": {ContextTakeover: true, WindowBits: 10},
}

func TestChromium(t *testing.T) {
	b := startBrowser(t, "--ignore-certificate-errors")
	for transport, start := range transports {
		for name, compression := range compressions {
			t.Run(transport+"/"+name, func(t *testing.T) {
				peer := newPeer(&websocket.Options{
					Compression: compression, MaxMessageSize: 2 << 20, Subprotocols: []string{"two", "one"},
				})
				server := start(peer)
				defer server.Close()
				page := b.open(t, server.URL+"/")
				defer page.close()
				for _, check := range []func(*testing.T, *tab, *peerOf){
					checkEcho, checkClosedByServer, checkFragments, checkPing,
				} {
					check(t, page, &peerOf{peer, transport == "h2", compression != nil})
				}
			})
		}
	}
}

// A peerOf is a peer with the properties that its connections should have.
type peerOf struct {
	*peer
	h2, compressed bool
}

// arrival waits for a connection to end and checks its request.
func (p *peerOf) arrival(t *testing.T) arrival {
	t.Helper()
	a := receive(t, p.arrivals, "end of the connection")
	if r := a.request; p.h2 != (r.ProtoMajor == 2) || p.h2 != (r.Method == http.MethodConnect) {
		t.Errorf("the request was %s %s", r.Method, r.Proto)
	}
	return a
}

func checkEcho(t *testing.T, page *tab, peer *peerOf) {
	got := page.converse(`{path: "echo", protocols: ["one", "two"], close: [3001, "bye ✓"]}`)
	if !got.Opened || got.Failed || !got.Clean || got.Code != 3001 || got.Protocol != "two" {
		t.Errorf("the page saw %+v", got)
	}
	for i, ok := range got.Received {
		if !ok {
			t.Errorf("message %d came back changed", i)
		}
	}
	if peer.compressed != strings.HasPrefix(got.Extensions, "permessage-deflate") {
		t.Errorf("extensions %q", got.Extensions)
	}
	if end, want := peer.arrival(t).end, (websocket.CloseError{Code: 3001, Reason: "bye ✓"}); !closedWith(end, want) {
		t.Errorf("our read ended with %v, want %v", end, want)
	}
}

func checkClosedByServer(t *testing.T, page *tab, peer *peerOf) {
	got := page.converse(`{path: "close?code=4000&reason=gr%C3%BCn", silent: true}`)
	if !got.Opened || got.Failed || !got.Clean || got.Code != 4000 || got.Reason != "grün" {
		t.Errorf("the page saw %+v", got)
	}
	if end := peer.arrival(t).end; end != nil {
		t.Errorf("Close: %v", end)
	}
}

func checkFragments(t *testing.T, page *tab, peer *peerOf) {
	var got []string
	page.eval(`await new Promise(done => {
		const got = [], ws = new WebSocket(new URL("parts", location.href.replace("http", "ws")));
		ws.onmessage = async ({data}) => {
			got.push(typeof data === "string" ? data : "binary " + await data.text());
			if (got.length == 2) ws.close();
		};
		ws.onclose = () => done(got);
	})`, &got)
	if len(got) != 2 || got[0] != "Hello, Wörld" || got[1] != "binary Hello, Wörld" {
		t.Errorf("the page got %q", got)
	}
	if end, want := peer.arrival(t).end, (websocket.CloseError{Code: 1005}); !closedWith(end, want) {
		t.Errorf("our read ended with %v, want %v", end, want)
	}
}

func checkPing(t *testing.T, page *tab, peer *peerOf) {
	var got struct {
		RTT    int64
		Failed bool
	}
	page.eval(`await new Promise(done => {
		const ws = new WebSocket(new URL("ping", location.href.replace("http", "ws")));
		ws.onmessage = ({data}) => { ws.close(1000); ws.onclose = () => done(JSON.parse(data)); };
	})`, &got)
	if got.Failed || got.RTT <= 0 {
		t.Errorf("the ping told %+v", got)
	}
	peer.arrival(t)
}

func TestChromiumOriginMustMatch(t *testing.T) {
	b := startBrowser(t)
	page := httptest.NewServer(newPeer(nil))
	defer page.Close()
	for _, grid := range []struct {
		name string
		opts *websocket.Options
		want bool
	}{
		{"another origin is refused", nil, false},
		{"an accepted origin is not", &websocket.Options{Origins: []string{page.URL}}, true},
	} {
		t.Run(grid.name, func(t *testing.T) {
			server := httptest.NewServer(newPeer(grid.opts))
			defer server.Close()
			tab := b.open(t, page.URL)
			defer tab.close()
			url := strings.Replace(server.URL, "http", "ws", 1)
			got := tab.converse(`{path: "` + url + `/echo", silent: true, close: [1000]}`)
			if got.Opened != grid.want {
				t.Errorf("the page saw %+v", got)
			}
		})
	}
}
