// Client sends each line of its input as a text message and prints the echo. It stops at the end of the input, when the
// connection ends, or on Ctrl-C.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/websocket"
)

const (
	dialTimeout = 10 * time.Second
	maxLine     = 16 << 20 // bytes; the limit of examples/echo/server
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8081/", "server to talk to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	if err := run(ctx, *url, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run sends a line, waits for its echo, and sends the next.
func run(ctx context.Context, url string, in io.Reader, out io.Writer) error {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := websocket.Dial(dialing, url, &websocket.Options{MaxMessageSize: maxLine})
	if err != nil {
		return err
	}
	defer c.CloseNow()

	lines, echoed := make(chan line), make(chan struct{}, 1)
	go scan(c.Context(), in, lines)
	go receive(c, out, echoed)
	for next := lines; ; {
		select {
		case l := <-next:
			if l.err != nil {
				return errors.Join(l.failure(), c.Close(websocket.StatusNormalClosure, ""))
			}
			if err := c.Write(ctx, websocket.TextMessage, l.text); err != nil {
				return err
			}
			next = nil
		case <-echoed:
			next = lines
		case <-ctx.Done():
			return c.Close(websocket.StatusNormalClosure, "")
		case <-c.Context().Done():
			return context.Cause(c.Context())
		}
	}
}

// A line is one line of the input, or the error that ended it.
type line struct {
	text []byte
	err  error
}

// failure returns the error, or nil at the end of the input.
func (l line) failure() error {
	if errors.Is(l.err, io.EOF) {
		return nil
	}
	return fmt.Errorf("reading the input: %w", l.err)
}

// scan sends the lines of in, then the error that ended it, until ctx is done.
func scan(ctx context.Context, in io.Reader, lines chan<- line) {
	send := func(l line) {
		select {
		case lines <- l:
		case <-ctx.Done():
		}
	}
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxLine) // 64 KiB is the default
	for ctx.Err() == nil && s.Scan() {
		send(line{text: bytes.Clone(s.Bytes())})
	}
	send(line{err: cmp.Or(s.Err(), io.EOF)})
}

// receive prints what arrives. It always reads, so that pings are answered and the end of the connection is
// seen while the user types.
func receive(c *websocket.Conn, out io.Writer, echoed chan<- struct{}) {
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			return // run gets it as the cause of c.Context()
		}
		fmt.Fprintf(out, "%s\n", m.Data)
		select {
		case echoed <- struct{}{}:
		default:
		}
	}
}
