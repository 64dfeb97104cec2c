package main

import (
	"bufio"
	"crypto/tls"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// gobwasPoller is what users of gobwas/ws build for many idle connections: connections without net/http, an epoll
// instance, and goroutines that read messages with a buffer of a pool once there are bytes.
var gobwasPoller = library{
	name:   "gobwas-poller",
	module: "github.com/gobwas/ws",
	style:  "ws.Upgrader on the listener's connections, one epoll instance, a pool of goroutines and of buffers, one write",
	listen: gobwasPollerListen,
}

func init() { libraries = append(libraries, gobwasPoller) }

// An epollServer waits for the bytes of idle connections. Each event is armed once.
type epollServer struct {
	epoll int
	ev    *events
	ready chan *polledConn

	mu    sync.Mutex
	conns map[int32]*polledConn
}

// A polledConn holds nothing of gobwasConn's while it is idle.
type polledConn struct {
	nc net.Conn
	fd int32
	s  *epollServer
}

// gobwasConns are the buffers of the connections that are being read.
var gobwasConns = sync.Pool{New: func() any { return &gobwasConn{br: bufio.NewReaderSize(nil, 4096), state: ws.StateServerSide} }}

func gobwasPollerListen(o options, ev *events) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	cfg := &tls.Config{}
	if o.TLS {
		cert, _, err := selfSigned()
		if err != nil {
			return "", err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	s := &epollServer{ev: ev, ready: make(chan *polledConn), conns: make(map[int32]*polledConn)}
	if s.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return "", err
	}
	go s.wait()
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.accept(nc.(*net.TCPConn), o, cfg)
		}
	}()
	return l.Addr().String(), nil
}

func (s *epollServer) accept(nc *net.TCPConn, o options, cfg *tls.Config) {
	c := &polledConn{nc: nc, s: s}
	if o.TLS {
		c.nc = tls.Server(nc, cfg)
	}
	if _, err := (ws.Upgrader{}).Upgrade(c.nc); err != nil {
		c.nc.Close()
		return
	}
	raw, err := nc.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { c.fd = int32(fd) })
	}
	if err != nil {
		c.nc.Close()
		return
	}
	s.mu.Lock()
	s.conns[c.fd] = c
	s.mu.Unlock()
	s.ev.open(c)
	c.arm(syscall.EPOLL_CTL_ADD)
}

func (c *polledConn) arm(op int) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: c.fd}
	_ = syscall.EpollCtl(c.s.epoll, op, int(c.fd), &event)
}

func (s *epollServer) wait() {
	events := make([]syscall.EpollEvent, 256)
	for {
		n, err := syscall.EpollWait(s.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			return
		}
		for _, e := range events[:max(n, 0)] {
			s.mu.Lock()
			c := s.conns[e.Fd]
			s.mu.Unlock()
			if c != nil {
				s.serve(c)
			}
		}
	}
}

// serve hands c to a goroutine that rests, or to a new one.
func (s *epollServer) serve(c *polledConn) {
	select {
	case s.ready <- c:
	default:
		go s.work(c)
	}
}

func (s *epollServer) work(c *polledConn) {
	rest := time.NewTimer(time.Second)
	for {
		c.read()
		rest.Reset(time.Second)
		select {
		case c = <-s.ready:
		case <-rest.C:
			return
		}
	}
}

// read reads the messages that have come.
func (c *polledConn) read() {
	g := gobwasConns.Get().(*gobwasConn)
	defer gobwasConns.Put(g)
	g.nc, g.closing = c.nc, sync.Once{}
	g.br.Reset(c.nc)
	for more := true; more; more = c.more(g) {
		text, err := g.next(c.s.ev)
		if err != nil {
			c.s.mu.Lock()
			delete(c.s.conns, c.fd)
			c.s.mu.Unlock()
			c.s.ev.closed(c, g.closeCode(err))
			c.nc.Close()
			return
		}
		c.s.ev.message(g, text, g.message)
	}
	c.arm(syscall.EPOLL_CTL_MOD)
}

// more reports whether there are bytes that the event does not tell of: in the buffer, or in that of crypto/tls.
func (c *polledConn) more(g *gobwasConn) bool {
	if g.br.Buffered() > 0 {
		return true
	}
	if _, ok := c.nc.(*tls.Conn); !ok {
		return false
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	_, err := g.br.Peek(1)
	_ = c.nc.SetReadDeadline(time.Time{})
	return !os.IsTimeout(err)
}

// with calls f with the buffers of a pool.
func (c *polledConn) with(f func(g *gobwasConn) error) error {
	g := gobwasConns.Get().(*gobwasConn)
	defer gobwasConns.Put(g)
	g.nc, g.closing = c.nc, sync.Once{}
	return f(g)
}

func (c *polledConn) send(text bool, p []byte) error {
	return c.with(func(g *gobwasConn) error { return g.send(text, p) })
}

func (c *polledConn) sendParts(text bool, parts ...[]byte) error {
	return c.with(func(g *gobwasConn) error { return g.sendParts(text, parts...) })
}

func (c *polledConn) ping() error { return c.with((*gobwasConn).ping) }

func (c *polledConn) shut(code int, reason string) error {
	return c.with(func(g *gobwasConn) error { return g.shut(code, reason) })
}
