package storm

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/websocket"
)

// A wire is a way to connect two ends.
type wire struct {
	name    string
	secure  bool // TLS
	http2   bool
	small   bool // sockets with buffers of a few KiB
	unix    bool
	wrap    func(net.Conn) net.Conn // nil: the sockets as they are
	server  *httptest.Server        // nil: websocket.Pipe
	client  *http.Client
	pending sync.Map // of *arrival, by the number in the request's path
	next    atomic.Int64
}

// Wires returns the names of all wires.
func Wires() (names []string) {
	for _, w := range allWires() {
		names = append(names, w.name)
	}
	return names
}

func allWires() []*wire {
	return []*wire{
		{name: "tcp"},
		{name: "tcp-small", small: true},
		{name: "tls", secure: true},
		{name: "tls-small", secure: true, small: true},
		{name: "unix", unix: true},
		{name: "unix-small", unix: true, small: true},
		{name: "wrapped", wrap: func(nc net.Conn) net.Conn { return wrapped{nc} }},
		{name: "wrapped-small", small: true, wrap: func(nc net.Conn) net.Conn { return wrapped{nc} }},
		{name: "choppy", wrap: func(nc net.Conn) net.Conn { return &choppy{Conn: nc} }},
		{name: "foreign", wrap: func(nc net.Conn) net.Conn { return foreign{nc} }},
		{name: "h2", secure: true, http2: true},
		{name: "h2-small", secure: true, http2: true, small: true},
		{name: "h2c", http2: true},
		{name: "pipe"},
	}
}

// A wrapped connection hides everything but the methods of net.Conn, as that of a LimitListener does.
type wrapped struct{ net.Conn }

// A choppy connection delivers and takes a few bytes at a time.
type choppy struct {
	net.Conn
	n atomic.Uint32
}

func (c *choppy) some(most int) int {
	r := c.n.Add(2654435769)
	return 1 + int(r>>8)%min(most, 1<<(r>>28))
}

func (c *choppy) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	return c.Conn.Read(p[:c.some(len(p))])
}

func (c *choppy) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = c.Conn.Write(p[n : n+min(len(p)-n, 700*c.some(16))])
		n += m
	}
	return n, err
}

// A foreign connection tells of a deadline that passed by an error of its own, as yamux and gVisor's netstack do.
type foreign struct{ net.Conn }

type foreignTimeout struct{}

func (foreignTimeout) Error() string   { return "i/o deadline reached" }
func (foreignTimeout) Timeout() bool   { return true }
func (foreignTimeout) Temporary() bool { return true }

func (c foreign) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, foreignError(err)
}

func (c foreign) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, foreignError(err)
}

func foreignError(err error) error {
	if t, ok := err.(net.Error); ok && t.Timeout() {
		return foreignTimeout{}
	}
	return err
}

// start starts the server of the wire.
func (w *wire) start(dir string) error {
	if w.name == "pipe" {
		return nil
	}
	network, addr := "tcp", "127.0.0.1:0"
	if w.unix {
		network, addr = "unix", filepath.Join(dir, w.name)
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	w.server = httptest.NewUnstartedServer(w)
	w.server.Listener.Close()
	w.server.Listener = &listener{ln, w}
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.server.EnableHTTP2 = w.http2
	transport := &http.Transport{DialContext: w.dial}
	if w.secure {
		w.server.StartTLS()
		transport.TLSClientConfig = w.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	} else {
		w.server.Config.Protocols = new(http.Protocols)
		w.server.Config.Protocols.SetHTTP1(true)
		w.server.Config.Protocols.SetUnencryptedHTTP2(true)
		w.server.Start()
	}
	w.client = &http.Client{Transport: transport}
	return nil
}

// A listener prepares the connections that it accepts.
type listener struct {
	net.Listener
	w *wire
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.w.prepare(nc), nil
}

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	addr := w.server.Listener.Addr()
	nc, err := new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
	if err != nil {
		return nil, err
	}
	return w.prepare(nc), nil
}

func (w *wire) prepare(nc net.Conn) net.Conn {
	if s, ok := nc.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok && w.small {
		s.SetReadBuffer(32 << 10) // less makes TCP wait for its persist timer
		s.SetWriteBuffer(4 << 10)
	}
	if w.wrap != nil {
		nc = w.wrap(nc)
	}
	return nc
}

// An arrival is a connection that a server is about to accept.
type arrival struct {
	opts    *websocket.Options
	handled bool // by Handler, otherwise by Upgrade
	panics  bool // once it leaves
	conn    chan *websocket.Conn
	leave   chan struct{} // closed for the handler to return
}

// ServeHTTP accepts the connection that the path names. One that nobody waits for is a dial that was cancelled.
func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	n, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	v, ok := w.pending.LoadAndDelete(n)
	if !ok {
		websocket.Handler(nil, func(c *websocket.Conn, _ *http.Request) { c.Read(context.Background()) }).ServeHTTP(rw, r)
		return
	}
	a := v.(*arrival)
	if a.handled {
		websocket.Handler(a.opts, a.serve).ServeHTTP(rw, r)
		return
	}
	c, err := websocket.Upgrade(rw, r, a.opts)
	if err != nil {
		close(a.conn)
		return
	}
	a.conn <- c
	<-a.leave
}

func (a *arrival) serve(c *websocket.Conn, _ *http.Request) {
	a.conn <- c
	<-a.leave
	if a.panics {
		panic("the storm")
	}
}

// connect makes a connection and returns its two ends.
func (w *wire) connect(ctx context.Context, a *arrival, client *websocket.Options) (s, c *websocket.Conn, err error) {
	if w.server == nil {
		s, c = websocket.Pipe(a.opts, client)
		return s, c, nil
	}
	n := w.next.Add(1)
	w.pending.Store(n, a)
	defer w.pending.Delete(n)
	if c, err = w.open(ctx, n, client); err != nil {
		return nil, nil, err
	}
	select {
	case s, ok := <-a.conn:
		if !ok {
			return nil, c, fmt.Errorf("Upgrade failed")
		}
		return s, c, nil
	case <-ctx.Done():
		return nil, c, fmt.Errorf("the server has no connection: %w", ctx.Err())
	}
}

func (w *wire) open(ctx context.Context, n int64, opts *websocket.Options) (*websocket.Conn, error) {
	o := *opts
	o.HTTPClient, o.HTTP2 = w.client, w.http2
	scheme, host := "ws", "storm.example"
	if w.secure {
		scheme, host = "wss", "example.com" // a name of httptest's certificate
	}
	return websocket.Dial(ctx, fmt.Sprintf("%s://%s/%d", scheme, host, n), &o)
}

// dialBriefly dials with a context that ends at any moment of the handshake.
func (w *wire) dialBriefly(r *rand.Rand) {
	if w.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(3000))*time.Microsecond)
	defer cancel()
	if c, err := w.open(ctx, -1, &websocket.Options{}); err == nil {
		c.CloseNow()
	}
}

// warmUp makes a connection, which is closed.
func (w *wire) warmUp() {
	if w.server == nil {
		return
	}
	if c, err := w.open(context.Background(), -1, &websocket.Options{}); err == nil {
		c.Close(websocket.StatusNormalClosure, "")
	}
}

// cut ends the connection beneath c without a word.
func cut(c *websocket.Conn) {
	switch nc := c.NetConn().(type) {
	case nil: // a stream of HTTP/2
		c.CloseNow()
	case *tls.Conn:
		nc.NetConn().Close()
	default:
		nc.Close()
	}
}

// startWires starts the servers of the wires with the given names, of all if there is none.
func startWires(names []string) (wires []*wire, stop func(), err error) {
	dir, err := os.MkdirTemp("", "storm")
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, w := range wires {
			if w.server != nil {
				w.server.CloseClientConnections()
				w.server.Close()
			}
		}
		os.RemoveAll(dir)
	}
	for _, w := range allWires() {
		if len(names) > 0 && !contains(names, w.name) {
			continue
		}
		if err := w.start(dir); err != nil {
			stop()
			return nil, nil, err
		}
		wires = append(wires, w)
	}
	if len(wires) == 0 {
		return nil, nil, fmt.Errorf("no wire is called %q", names)
	}
	return wires, stop, nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name || strings.HasPrefix(name, n+"-") {
			return true
		}
	}
	return false
}

// net/http serves extended CONNECT only in a process that was started with this in its environment.
const extendedConnect = "http2xconnect=1"

// CanRun reports whether the process was started with Environ.
func CanRun() bool { return strings.Contains(os.Getenv("GODEBUG"), extendedConnect) }

// Environ returns the environment that a storm needs.
func Environ() []string {
	return append(os.Environ(), "GODEBUG="+strings.TrimPrefix(os.Getenv("GODEBUG")+","+extendedConnect, ","))
}
