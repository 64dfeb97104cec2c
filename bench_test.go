package websocket

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"testing"
	"time"
)

// An endless is a net.Conn from which the same frame can be read for ever, and which forgets what is written.
type endless struct {
	net.Conn
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(p[n:], e.frame[e.at:])
		n += m
		e.at = (e.at + m) % len(e.frame)
	}
	return n, nil
}

func (e *endless) Write(p []byte) (int, error)        { return len(p), nil }
func (e *endless) tryWrite(p []byte) (int, error)     { return len(p), nil }
func (e *endless) Close() error                       { return nil }
func (e *endless) SetReadDeadline(t time.Time) error  { return nil }
func (e *endless) SetWriteDeadline(t time.Time) error { return nil }

func endlessConn(server bool, frame []byte) *Conn {
	return newConn(&endless{frame: frame}, config{terms: terms{server: server, maxPending: 1 << 20, closeTimeout: time.Second}, maxMessage: math.MaxInt64, keepAlive: 30 * time.Second})
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		frame := appendFrame(nil, &header{fin: true, opcode: opBinary, masked: true}, make([]byte, size))
		b.Run(fmt.Sprintf("Messages/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			left := b.N
			for _, err := range endlessConn(true, frame).Messages(context.Background()) {
				if left--; left == 0 || err != nil {
					break
				}
			}
		})
		b.Run(fmt.Sprintf("Read/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			c := endlessConn(true, frame)
			for range b.N {
				c.Read(context.Background())
			}
		})
		b.Run(fmt.Sprintf("Reader/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			c := endlessConn(true, frame)
			for range b.N {
				_, r, _ := c.Reader(context.Background())
				io.Copy(io.Discard, r)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, server := range []bool{true, false} {
		for _, size := range []int{64, 1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("server=%t/%d", server, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				c := endlessConn(server, []byte{0})
				p := make([]byte, size)
				for range b.N {
					c.Write(context.Background(), BinaryMessage, p)
				}
			})
		}
	}
}
