package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"example.com/websocket"
)

// echoes runs the client against an echo server and returns its output.
func echoes(t *testing.T, in io.Reader) (string, error) {
	t.Helper()
	srv := httptest.NewServer(websocket.Handler(&websocket.Options{MaxMessageSize: maxLine},
		func(c *websocket.Conn, r *http.Request) {
			for m, err := range c.Messages(context.Background()) {
				if err != nil || c.Write(context.Background(), m.Type, m.Data) != nil {
					return
				}
			}
		}))
	defer srv.Close()
	var out bytes.Buffer
	err := run(t.Context(), srv.URL, in, &out)
	return out.String(), err
}

func TestClient_PrintsEachLine(t *testing.T) {
	for _, in := range []string{"", "one\ntwo\n", "without a newline", strings.Repeat("x", 100<<10) + "\nshort\n"} {
		want := in
		if in != "" && !strings.HasSuffix(in, "\n") {
			want += "\n"
		}
		if got, err := echoes(t, strings.NewReader(in)); got != want || err != nil {
			t.Errorf("%.20q: printed %.20q (%d bytes), %v, want %d bytes", in, got, len(got), err, len(want))
		}
	}
}

func TestClient_ReturnsTheError_OfItsInput(t *testing.T) {
	broken := errors.New("the disk is gone")
	for name, c := range map[string]struct {
		in   io.Reader
		want error
	}{
		"broken":   {io.MultiReader(strings.NewReader("one\n"), iotest.ErrReader(broken)), broken},
		"too long": {io.MultiReader(strings.NewReader("one\n"), strings.NewReader(strings.Repeat("x", maxLine+1))), bufio.ErrTooLong},
	} {
		if got, err := echoes(t, c.in); got != "one\n" || !errors.Is(err, c.want) {
			t.Errorf("%s: printed %q, %v, want %v", name, got, err, c.want)
		}
	}
}

func TestClient_Ends_WhenTheServerCloses(t *testing.T) {
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		c.Close(websocket.StatusTryAgainLater, "busy")
	}))
	defer srv.Close()
	in, w := io.Pipe()
	defer w.Close()
	if err := run(t.Context(), srv.URL, in, io.Discard); !errors.Is(err, websocket.StatusTryAgainLater) {
		t.Errorf("run: %v, want 1013", err)
	}
}

func TestClient_ClosesNormally_WhenInterrupted(t *testing.T) {
	closed := make(chan error, 1)
	ctx, interrupt := context.WithCancel(t.Context())
	srv := httptest.NewServer(websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
		c.Read(context.Background()) // Dial has returned
		interrupt()
		_, _, err := c.Read(context.Background())
		closed <- err
	}))
	defer srv.Close()
	in, w := io.Pipe()
	defer w.Close()
	go io.WriteString(w, "hello\n")
	if err := run(ctx, srv.URL, in, io.Discard); err != nil {
		t.Errorf("run: %v", err)
	}
	if err := <-closed; !errors.Is(err, websocket.StatusNormalClosure) {
		t.Errorf("the server saw %v, want 1000", err)
	}
}
