package websocket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// newBodyConn returns an h2Conn over the body of a 101 response, and the peer.
func newBodyConn() (*h2Conn, net.Conn) {
	near, far := net.Pipe()
	return newH2Conn(bodyStream{near}).start(streamAddr("local"), streamAddr("example.com")), far
}

func TestH2Conn_MovesDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, far := newBodyConn()
		defer c.Close()
		if c.LocalAddr().String() != "local" || c.RemoteAddr().String() != "example.com" || c.RemoteAddr().Network() != "websocket" {
			t.Errorf("the addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
		}
		data := countingBytes(4 * pipeSize)
		c.SetDeadline(time.Now().Add(time.Second))
		n, err := c.Write(data)
		if n < pipeSize || n > 3*pipeSize {
			t.Errorf("Write took %d bytes", n)
		}
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		_, err = c.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		c.SetDeadline(time.Time{})
		rest := background(func() error { _, err := c.Write(data[n:]); return err })
		got := make([]byte, len(data))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the peer read other bytes, %v", err)
		}
		if err := <-rest; err != nil {
			t.Error(err)
		}
		go far.Write([]byte("hello"))
		wantPipeRead(t, c, "hello")
	})
}

func TestH2Conn_Close(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *h2Conn, far net.Conn)
		want error // of a Read, and of a Write
	}{
		{"by us", func(c *h2Conn, _ net.Conn) { c.Close() }, net.ErrClosed},
		{"by the peer", func(_ *h2Conn, far net.Conn) { far.Close() }, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c, far := newBodyConn()
				defer far.Close()
				c.tryWrite(make([]byte, pipeSize))
				synctest.Wait()
				read := background(func() error { _, err := c.Read(make([]byte, 1)); return err })
				wrote := background(func() error { _, err := c.Write(make([]byte, 2*pipeSize)); return err })
				synctest.Wait()
				tt.end(c, far)
				wantError(t, "Read", <-read, tt.want)
				if err := <-wrote; err == nil {
					t.Error("Write: nil")
				}
				again := c.Close()
				if errors.Is(tt.want, net.ErrClosed) != errors.Is(again, net.ErrClosed) {
					t.Errorf("Close: %v", again)
				}
				pass(2 * lingering)
				if _, err := far.Write([]byte("x")); err != io.ErrClosedPipe {
					t.Errorf("the peer still writes: %v", err)
				}
			})
		})
	}
}

// What was written before Close is sent if the peer has ended its direction: that is how a close frame arrives.
func TestH2Conn_SendsTheRestAfterThePeersEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		near, far := newPipe()
		c := newH2Conn(bodyStream{near}).start(nil, nil)
		far.CloseWrite()
		synctest.Wait()
		c.Write([]byte("goodbye"))
		c.Close()
		if p, err := io.ReadAll(far); string(p) != "goodbye" || err != nil {
			t.Errorf("the peer read %q, %v", p, err)
		}
	})
}
