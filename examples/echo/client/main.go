// Client sends each line of its input as a text message and prints what comes back. It ends with the
// input, with the connection, or on Ctrl-C.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"example.com/websocket"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8081/", "server to talk to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	if err := run(ctx, *url, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run sends a line, waits for its echo, and so on. A read is always at work, so that pings are answered
// and the end of the connection is seen while the user thinks.
func run(ctx context.Context, url string, in io.Reader, out io.Writer) error {
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := websocket.Dial(dialing, url, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()

	lines, echoed := make(chan string), make(chan struct{}, 1)
	go scan(in, lines)
	go receive(c, out, echoed)
	for next := lines; ; {
		select {
		case line, more := <-next:
			if !more {
				return c.Close(websocket.StatusNormalClosure, "")
			}
			if err := c.Write(ctx, websocket.TextMessage, []byte(line)); err != nil {
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

func scan(in io.Reader, lines chan<- string) {
	defer close(lines)
	for s := bufio.NewScanner(in); s.Scan(); {
		lines <- s.Text()
	}
}

func receive(c *websocket.Conn, out io.Writer, echoed chan<- struct{}) {
	for m, err := range c.Messages(context.Background()) {
		if err != nil {
			return // run sees it as the cause of the end of c.Context()
		}
		fmt.Fprintf(out, "%s\n", m.Data)
		select {
		case echoed <- struct{}{}:
		default:
		}
	}
}
