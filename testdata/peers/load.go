package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The load generator: raw sockets, frames made beforehand.

// A rawConn is a client connection of the load generator.
type rawConn struct {
	net.Conn
	in frameReader
}

// handshake is the request of RFC 6455, section 1.3.
func handshake(o options) []byte {
	ext := ""
	switch {
	case o.Compress && o.Takeover:
		ext = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
	case o.Compress:
		ext = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
	}
	return []byte("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + ext + "\r\n")
}

// dialRaw opens a connection whose reader holds bufSize bytes.
func dialRaw(addr string, o options, bufSize int) (*rawConn, error) {
	return dialFrom(nil, addr, o, bufSize)
}

// dialFrom is dialRaw from a local address.
func dialFrom(local net.Addr, addr string, o options, bufSize int) (*rawConn, error) {
	d := net.Dialer{LocalAddr: local, Timeout: 5 * time.Second}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if o.TLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}})
	}
	c := &rawConn{nc, frameReader{bufio.NewReaderSize(nc, bufSize)}}
	if err := c.handshake(o); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *rawConn) handshake(o options) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write(handshake(o)); err != nil {
		return err
	}
	accepted := false
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.Contains(line, []byte(" 101 ")) {
			return fmt.Errorf("handshake: %q", line)
		}
		accepted = accepted || bytes.Contains(line, []byte("permessage-deflate"))
		if len(line) == 2 {
			break
		}
	}
	if accepted != o.Compress {
		return fmt.Errorf("compression agreed: %v, wanted: %v", accepted, o.Compress)
	}
	return nil
}

// goodbye exchanges close frames, and waits until the server has closed the connection.
func (c *rawConn) goodbye() error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(appendFrame(nil, finBit|opClose, true, []byte{1000 >> 8, 1000 & 0xff})); err != nil {
		return err
	}
	h, err := c.in.head()
	if err == nil && h.first != finBit|opClose {
		err = fmt.Errorf("%#x came, not a close frame", h.first)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, c.in)
	}
	return err
}

// drop ends the connection without leaving a TIME_WAIT.
func (c *rawConn) drop() {
	nc := c.Conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = nc.Close()
}

// A fleet is the load generator's connections to one server.
type fleet []*rawConn

// perAddress is for how many connections the ports of one address suffice.
const perAddress = 20_000

// loopback returns the i-th local address to dial from.
func loopback(i int) net.Addr {
	if i == 0 {
		return nil // the system's choice, which takes less time
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}
}

func dialFleet(addr string, o options, n, bufSize int) (fleet, error) {
	f := make(fleet, n)
	err := parallel(n, 32, func(i int) (err error) {
		f[i], err = dialFrom(loopback(i/perAddress), addr, o, bufSize)
		return err
	})
	if err != nil {
		f.drop()
	}
	return f, err
}

func (f fleet) drop() {
	for _, c := range f {
		if c != nil {
			c.drop()
		}
	}
}

// parallel calls f for 0 to n-1 from some goroutines and returns the first error.
func parallel(n, workers int, f func(i int) error) error {
	var next atomic.Int64
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	for range min(n, workers) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// An exchange is what a connection of the fleet repeats: bytes out, then so many messages in.
type exchange struct {
	out      []byte
	replies  int
	messages int64 // that the process under test handled
	timed    bool
}

// run repeats the exchange on every connection until d has passed, and returns messages and round trip times.
func (f fleet) run(x exchange, d time.Duration) (int64, []time.Duration, error) {
	var stop atomic.Bool
	time.AfterFunc(d, func() { stop.Store(true) })
	var total atomic.Int64
	trips := make([][]time.Duration, len(f))
	err := parallel(len(f), len(f), func(i int) error {
		n, t, err := f[i].repeat(x, &stop)
		total.Add(n)
		trips[i] = t
		return err
	})
	var all []time.Duration
	for _, t := range trips {
		all = append(all, t...)
	}
	return total.Load(), all, err
}

func (c *rawConn) repeat(x exchange, stop *atomic.Bool) (n int64, trips []time.Duration, err error) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a lost message must end the run
	for !stop.Load() {
		var start time.Time
		if x.timed {
			start = time.Now()
		}
		if _, err := c.Write(x.out); err != nil {
			return n, trips, err
		}
		for range x.replies {
			if _, _, err := c.in.skip(); err != nil {
				return n, trips, err
			}
		}
		if x.timed {
			trips = append(trips, time.Since(start))
		}
		n += x.messages
	}
	return n, trips, nil
}

// check sends out once on every connection and compares each reply with want.
func (f fleet) check(out []byte, replies int, want []byte) error {
	return parallel(len(f), 64, func(i int) error {
		c := f[i]
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write(out); err != nil {
			return err
		}
		for range replies {
			_, p, err := c.in.message()
			if err != nil {
				return err
			}
			if !bytes.Equal(p, want) {
				return fmt.Errorf("echo of %d bytes differs from the %d sent", len(p), len(want))
			}
		}
		return nil
	})
}

// A drain reads all that a connection brings, counting messages and payload.
type drain struct {
	c        *rawConn
	messages atomic.Int64
	bytes    atomic.Int64
}

func startDrain(c *rawConn) *drain {
	d := &drain{c: c}
	go func() {
		for {
			_, n, err := c.in.skip()
			if err != nil {
				return
			}
			d.messages.Add(1)
			d.bytes.Add(int64(n))
		}
	}()
	return d
}

// settle waits until n messages in all have been read from the process under test.
func (d *drain) settle(n int64) error {
	for range 5000 {
		if d.messages.Load() >= n {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%d of %d messages arrived", d.messages.Load(), n)
}
