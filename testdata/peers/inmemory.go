package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// memoryConn is a net.Conn without a kernel: reads return one buffer of frames over and over, and writes are dropped.
type memoryConn struct {
	frames []byte
	at     int
	served int64
	stop   atomic.Bool // the next read returns io.EOF
	silent bool        // reads block until stop
	ended  chan struct{}
	once   sync.Once
}

func (m *memoryConn) Read(p []byte) (int, error) {
	if m.silent {
		<-m.ended
	}
	if m.stop.Load() {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) {
		k := copy(p[n:], m.frames[m.at:])
		n += k
		if m.at += k; m.at == len(m.frames) {
			m.at = 0
		}
	}
	m.served += int64(n)
	return n, nil
}

func (m *memoryConn) Write(p []byte) (int, error) { return len(p), nil }

func (m *memoryConn) Close() error {
	m.stop.Store(true)
	m.once.Do(func() { close(m.ended) })
	return nil
}

func (m *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (m *memoryConn) RemoteAddr() net.Addr             { return m.LocalAddr() }
func (m *memoryConn) SetDeadline(time.Time) error      { return nil }
func (m *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (m *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// memoryWriter is an http.ResponseWriter from which the connection can be hijacked.
type memoryWriter struct {
	http.ResponseWriter
	nc     net.Conn
	header http.Header
}

func (w memoryWriter) Header() http.Header { return w.header }
func (w memoryWriter) WriteHeader(int)     {}

func (w memoryWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.nc, bufio.NewReadWriter(bufio.NewReader(w.nc), bufio.NewWriter(w.nc)), nil
}

// memory measures reads or writes without a kernel.
func (p *process) memory(q request) (reply, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(handshake(options{}))))
	if err != nil {
		return reply{}, err
	}
	r.RemoteAddr = "127.0.0.1:1"
	frame := appendFrame(nil, finBit|opBinary, true, pattern(q.Size))
	m := &memoryConn{frames: bytes.Repeat(frame, max(1, 64<<10/len(frame))), silent: q.Mode == "write", ended: make(chan struct{})}
	opened := make(chan conn, 1)
	closed := make(chan struct{})
	ev := events{
		open:   func(c conn) { opened <- c },
		closed: func(conn, int) { close(closed) },
	}.withDefaults()
	h := p.lib.handler(options{}, ev)
	return measure(func() (int64, error) {
		time.AfterFunc(q.Duration, func() { m.stop.Store(true) })
		go h.ServeHTTP(memoryWriter{nc: m, header: http.Header{}}, r)
		var c conn
		select {
		case c = <-opened:
		case <-time.After(time.Second):
			return 0, fmt.Errorf("no handshake over memory")
		}
		if q.Mode == "write" {
			defer m.Close()
			return sendUntil(&m.stop, c, pattern(q.Size))
		}
		<-closed
		return m.served / int64(len(frame)), nil
	})
}
