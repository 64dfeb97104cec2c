package storm

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/websocket"
)

// A wire is a way to connect two ends.
type wire struct {
	name     string
	secure   bool // TLS
	http2    bool
	unix     bool
	small    bool                    // sockets have small buffers
	wrap     func(net.Conn) net.Conn // nil: the sockets as they are
	server   *httptest.Server        // nil: websocket.Pipe
	client   *http.Client
	arrivals sync.Map // of *arrival, by the path of the request
	count    atomic.Int64
}

func allWires() []*wire {
	hide := func(nc net.Conn) net.Conn { return wrapped{nc} }
	return []*wire{
		{name: "tcp"},
		{name: "tcp-small", small: true},
		{name: "tls", secure: true},
		{name: "tls-small", secure: true, small: true},
		{name: "unix", unix: true},
		{name: "unix-small", unix: true, small: true},
		{name: "wrapped", wrap: hide},
		{name: "wrapped-small", wrap: hide, small: true},
		{name: "choppy", wrap: func(nc net.Conn) net.Conn { return &choppy{Conn: nc} }},
		{name: "foreign", wrap: func(nc net.Conn) net.Conn { return foreign{nc} }},
		{name: "h2", secure: true, http2: true},
		{name: "h2-small", secure: true, http2: true, small: true},
		{name: "h2c", http2: true},
		{name: "pipe"},
	}
}

// A wrapped connection hides all but the methods of net.Conn, as netutil's LimitListener does.
type wrapped struct{ net.Conn }

// A choppy connection reads and writes a few bytes at a time.
type choppy struct {
	net.Conn
	n atomic.Uint32
}

func (c *choppy) some(most int) int {
	r := c.n.Add(2654435769)
	return min(most, 1+int(r>>8)%(1<<(r>>28)))
}

func (c *choppy) Read(p []byte) (int, error) { return c.Conn.Read(p[:c.some(len(p))]) }

func (c *choppy) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = c.Conn.Write(p[n : n+c.some(len(p)-n)])
		n += m
	}
	return n, err
}

// A foreign connection reports a passed deadline with an error of its own, as yamux and gVisor's netstack do.
type foreign struct{ net.Conn }

type timeout struct{}

func (timeout) Error() string   { return "i/o deadline reached" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func (c foreign) Read(p []byte) (int, error)  { return translate(c.Conn.Read(p)) }
func (c foreign) Write(p []byte) (int, error) { return translate(c.Conn.Write(p)) }

func translate(n int, err error) (int, error) {
	if t, ok := err.(net.Error); ok && t.Timeout() {
		err = timeout{}
	}
	return n, err
}

// startWires starts the servers of the transports.
func (s *Storm) startWires() (stop func(), err error) {
	dir, err := os.MkdirTemp("", "storm")
	if err != nil {
		return nil, err
	}
	stop = func() {
		for _, w := range s.wires {
			if w.server != nil {
				w.server.CloseClientConnections()
				w.server.Close()
			}
		}
		os.RemoveAll(dir)
	}
	for _, w := range allWires() {
		if len(s.Wires) > 0 && !slices.ContainsFunc(s.Wires, func(name string) bool { return strings.HasPrefix(w.name, name) }) {
			continue
		}
		if err := w.start(dir); err != nil {
			stop()
			return nil, err
		}
		s.wires = append(s.wires, w)
	}
	if len(s.wires) == 0 {
		return nil, fmt.Errorf("no transport is called %q", s.Wires)
	}
	return stop, nil
}

func (w *wire) start(dir string) error {
	if w.name == "pipe" {
		return nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if w.unix {
		ln, err = net.Listen("unix", filepath.Join(dir, w.name))
	}
	if err != nil {
		return err
	}
	w.server = httptest.NewUnstartedServer(w)
	w.server.Listener.Close()
	w.server.Listener = &listener{ln, w}
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, ln.Addr().Network(), ln.Addr().String())
		return w.prepare(nc, err)
	}}
	w.client = &http.Client{Transport: transport}
	if w.secure {
		w.server.EnableHTTP2 = w.http2
		w.server.StartTLS()
		transport.TLSClientConfig = w.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		return nil
	}
	w.server.Config.Protocols = new(http.Protocols)
	w.server.Config.Protocols.SetHTTP1(true)
	w.server.Config.Protocols.SetUnencryptedHTTP2(w.http2)
	w.server.Start()
	return nil
}

// A listener prepares the connections that it accepts.
type listener struct {
	net.Listener
	w *wire
}

func (l *listener) Accept() (net.Conn, error) { return l.w.prepare(l.Listener.Accept()) }

func (w *wire) prepare(nc net.Conn, err error) (net.Conn, error) {
	if s, ok := nc.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok && w.small {
		s.SetReadBuffer(32 << 10) // with a smaller buffer, TCP waits for its persist timer
		s.SetWriteBuffer(4 << 10)
	}
	if err == nil && w.wrap != nil {
		nc = w.wrap(nc)
	}
	return nc, err
}

// An arrival is a connection that a server is about to accept.
type arrival struct {
	opts    *websocket.Options
	handled bool // by Handler, otherwise by Upgrade
	panics  bool // instead of returning
	conn    chan *websocket.Conn
	leave   chan struct{} // closed to make the handler return
	left    sync.Once
}

func (a *arrival) letGo() { a.left.Do(func() { close(a.leave) }) }

func (a *arrival) serve(c *websocket.Conn, _ *http.Request) {
	a.conn <- c
	<-a.leave
	if a.panics {
		panic("the storm")
	}
}

// ServeHTTP accepts the connection that the path names. If nothing waits for it, the client has given up.
func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	v, ok := w.arrivals.LoadAndDelete(r.URL.Path)
	if !ok {
		websocket.Handler(nil, func(c *websocket.Conn, _ *http.Request) { c.Read(context.Background()) }).ServeHTTP(rw, r)
		return
	}
	a := v.(*arrival)
	if a.handled {
		websocket.Handler(a.opts, a.serve).ServeHTTP(rw, r)
		return
	}
	if c, err := websocket.Upgrade(rw, r, a.opts); err == nil {
		a.conn <- c
		<-a.leave
	}
}

// connect makes a connection and returns its two ends.
func (w *wire) connect(ctx context.Context, a *arrival, opts *websocket.Options) (server, client *websocket.Conn, err error) {
	if w.server == nil {
		server, client = websocket.Pipe(a.opts, opts)
		return server, client, nil
	}
	path := "/" + strconv.FormatInt(w.count.Add(1), 10)
	w.arrivals.Store(path, a)
	defer w.arrivals.Delete(path)
	if client, err = w.open(ctx, path, opts); err == nil {
		select {
		case server = <-a.conn:
			return server, client, nil
		case <-ctx.Done():
			client.CloseNow()
			err = fmt.Errorf("the server has no connection: %w", ctx.Err())
		}
	}
	a.letGo()
	return nil, nil, err
}

func (w *wire) open(ctx context.Context, path string, opts *websocket.Options) (*websocket.Conn, error) {
	opts.HTTPClient, opts.HTTP2 = w.client, w.http2
	scheme := "ws"
	if w.secure {
		scheme = "wss"
	}
	return websocket.Dial(ctx, scheme+"://example.com"+path, opts) // a name in httptest's certificate
}

// dial makes a connection and cuts it.
func (w *wire) dial(ctx context.Context) {
	if w.server == nil {
		return
	}
	if c, err := w.open(ctx, "/", new(websocket.Options)); err == nil {
		c.CloseNow()
	}
}

// net/http serves extended CONNECT only in a process that was started with this in its environment.
const extendedConnect = "http2xconnect=1"

// CanRun reports whether the process was started with Environ.
func CanRun() bool { return strings.Contains(os.Getenv("GODEBUG"), extendedConnect) }

// Environ returns the environment that a storm needs.
func Environ() []string {
	return append(os.Environ(), "GODEBUG="+strings.TrimPrefix(os.Getenv("GODEBUG")+","+extendedConnect, ","))
}
