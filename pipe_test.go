package websocket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipeBubble runs f in a bubble with the two ends of a pipe.
func pipeBubble(t *testing.T, f func(a, b *pipeEnd)) {
	t.Helper()
	inBubble(t, func(t *testing.T) {
		a, b := newPipe()
		defer a.Close()
		defer b.Close()
		f(a, b)
	})
}

func wantPipeRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := io.ReadFull(r, p); err != nil || string(p) != want {
		t.Fatalf("read %q, %v, want %q", p, err, want)
	}
}

func wantPipeError(t *testing.T, n int, err, want error) {
	t.Helper()
	if n != 0 || !errors.Is(err, want) || want == io.EOF && err != io.EOF {
		t.Fatalf("got %d, %v, want 0, %v", n, err, want)
	}
}

// The sizes of writes and reads make no difference.
func TestPipe_CarriesEveryByteInOrder(t *testing.T) {
	want := pattern(300_000)
	for _, write := range []int{7, 1000, 5000, 70_000, len(want)} {
		for _, read := range []int{9, 4096, 100_000} {
			pipeBubble(t, func(a, b *pipeEnd) {
				go func() {
					for i := 0; i < len(want); i += write {
						a.Write(want[i:min(i+write, len(want))])
					}
					a.CloseWrite()
				}()
				var got bytes.Buffer
				if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, b, make([]byte, read)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Fatalf("writes of %d, reads of %d: other bytes arrived", write, read)
				}
			})
		}
	}
}

// A pipe holds a limited number of bytes in each direction, and no buffer while it is empty.
func TestPipe_HoldsALimitedNumberOfBytes(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		b.Write([]byte("the other way"))
		p := pattern(pipeSize + 10)
		for _, row := range []struct{ from, taken, read int }{{0, pipeSize, 5}, {pipeSize, 5, pipeSize}, {pipeSize + 5, 5, 5}, {0, pipeSize, 0}, {0, 0, pipeSize}} {
			if n, err := a.tryWrite(p[row.from:]); n != row.taken || err != nil {
				t.Fatalf("tryWrite from %d took %d, %v, want %d", row.from, n, err, row.taken)
			}
			io.ReadFull(b, make([]byte, row.read))
		}
		wantPipeRead(t, a, "the other way")
		if b.in.buf != nil || b.out.buf != nil {
			t.Error("an empty pipe holds a buffer")
		}
		for name, call := range map[string]func([]byte) (int, error){"Read": a.Read, "Write": a.Write} {
			if n, err := call(nil); n != 0 || err != nil {
				t.Errorf("%s of no bytes: %d, %v", name, n, err)
			}
		}
	})
}

func TestPipe_TryWriteGivesWayToAWriter(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		go a.Write(make([]byte, pipeSize+3))
		synctest.Wait()
		b.Read(make([]byte, 1)) // the room belongs to the writer that waits
		if n, err := a.tryWrite([]byte("x")); n != 0 || err != nil {
			t.Errorf("tryWrite took %d, %v", n, err)
		}
		synctest.Wait()
		io.ReadFull(b, make([]byte, pipeSize+2))
		if n, err := a.tryWrite([]byte("x")); n != 1 || err != nil {
			t.Errorf("tryWrite after the writer took %d, %v", n, err)
		}
	})
}

func TestPipe_AfterThePeersClose(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		a.Write([]byte("last words"))
		a.Close()
		for _, write := range []func([]byte) (int, error){b.Write, b.tryWrite} {
			n, err := write([]byte("x"))
			wantPipeError(t, n, err, io.ErrClosedPipe)
		}
		wantPipeRead(t, b, "last words")
		for range 2 {
			n, err := b.Read(make([]byte, 1))
			wantPipeError(t, n, err, io.EOF)
		}
	})
}

func TestPipe_AfterClose(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		b.Write([]byte("never read"))
		for range 2 {
			must(t, a.Close())
		}
		n, err := a.Read(make([]byte, 1))
		wantPipeError(t, n, err, net.ErrClosed)
		n, err = a.Write([]byte("x"))
		wantPipeError(t, n, err, net.ErrClosed)
		if a.in.buf != nil {
			t.Error("bytes that nobody can read are still held")
		}
	})
}

func TestPipe_AfterCloseWrite(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		a.CloseWrite()
		n, err := a.Write([]byte("x"))
		wantPipeError(t, n, err, net.ErrClosed)
		n, err = b.Read(make([]byte, 1))
		wantPipeError(t, n, err, io.EOF)
		b.Write([]byte("still here"))
		wantPipeRead(t, a, "still here")
	})
}

// Several goroutines wait to read and to write.
func TestPipe_UnblocksEveryCall(t *testing.T) {
	for _, c := range []struct {
		name        string
		end         func(a, b *pipeEnd)
		read, write error
	}{
		{"own Close", func(a, b *pipeEnd) { a.Close() }, net.ErrClosed, net.ErrClosed},
		{"peer's Close", func(a, b *pipeEnd) { b.Close() }, io.EOF, io.ErrClosedPipe},
		{"deadline in the past", func(a, b *pipeEnd) { a.SetDeadline(past) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		{"deadline comes", func(a, b *pipeEnd) { a.SetDeadline(time.Now().Add(time.Hour)) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			pipeBubble(t, func(a, b *pipeEnd) {
				a.tryWrite(make([]byte, pipeSize))
				var waiting sync.WaitGroup
				for range 3 {
					waiting.Go(func() {
						n, err := a.Read(make([]byte, 1))
						wantPipeError(t, n, err, c.read)
					})
					waiting.Go(func() {
						n, err := a.Write([]byte("x"))
						wantPipeError(t, n, err, c.write)
					})
				}
				synctest.Wait()
				c.end(a, b)
				waiting.Wait()
			})
		})
	}
}

func TestPipe_TellsHowMuchItTookUntilTheDeadline(t *testing.T) {
	pipeBubble(t, func(a, b *pipeEnd) {
		p := pattern(pipeSize + 100)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(p)
		if n != pipeSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write is %d, %v, want %d and a passed deadline", n, err, pipeSize)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is not a timeout", err)
		}
		a.SetWriteDeadline(time.Time{})
		go a.Write(p[n:])
		wantPipeRead(t, b, string(p))
	})
}

func TestPipe_Addresses(t *testing.T) {
	a, b := memPipe()
	for _, addr := range []net.Addr{a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr()} {
		if addr.Network() != "pipe" || addr.String() != "pipe" {
			t.Errorf("address %v of network %v", addr, addr.Network())
		}
	}
	if _, soft := a.(interface{ softDeadlines() }); !soft {
		t.Error("its deadlines are not soft")
	}
	a.(*pipeEnd).softDeadlines()
}

func TestPipe_Negotiates(t *testing.T) {
	on := &Compression{ContextTakeover: true}
	for _, tt := range []struct {
		name           string
		server, client *Options
		protocol       string
		compressed     bool
	}{
		{"nothing", nil, nil, "", false},
		{"a subprotocol", &Options{Subprotocols: []string{"b", "a"}}, &Options{Subprotocols: []string{"a", "b"}}, "b", false},
		{"compression", &Options{Compression: on}, &Options{Compression: on}, "", true},
		{"compression at one end", &Options{Compression: on}, nil, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := Pipe(tt.server, tt.client)
			defer s.CloseNow()
			defer c.CloseNow()
			if s.Subprotocol() != tt.protocol || c.Subprotocol() != tt.protocol {
				t.Errorf("subprotocols %q and %q", s.Subprotocol(), c.Subprotocol())
			}
			for _, ends := range [][2]*Conn{{s, c}, {c, s}} {
				must(t, ends[0].Write(soon(t), BinaryMessage, make([]byte, 1000)))
				wantRead(t, ends[1], BinaryMessage, string(make([]byte, 1000)))
				if st := ends[0].Stats(); st.BytesWritten < 1000 != tt.compressed {
					t.Errorf("wrote %d bytes", st.BytesWritten)
				}
			}
		})
	}
}
