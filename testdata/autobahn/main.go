// Command autobahn runs the package against the Autobahn test suite, as the server for its fuzzingclient or as the
// client for its fuzzingserver. It also checks the suite's reports. README.md has the commands.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"example.com/websocket"
)

func main() {
	serveAt := flag.String("serve", "", "address to serve on, for the suite's fuzzingclient: 127.0.0.1:9002")
	suite := flag.String("dial", "", "URL of the suite's fuzzingserver: ws://127.0.0.1:9001")
	report := flag.String("check", "", "the suite's report to judge: index.json; the exit status is 1 unless all is well")
	flag.Parse()
	log.SetFlags(0)
	var err error
	switch {
	case *serveAt != "":
		err = serve(*serveAt)
	case *suite != "":
		err = dialAll(*suite)
	case *report != "":
		err = check(*report, os.Stdout)
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// An agent is a way to use the package. Each goes through all cases.
type agent struct {
	name string // its path at our server, and its name in the suite's reports
	echo func(*websocket.Conn) error
	opts websocket.Options
}

// agents cover each way to read, and each window size with streamed messages, in which errors are seen soonest. There
// is no agent with a window of 2^8 bytes, because zlib, which the suite uses, does not support raw DEFLATE of that
// size.
func agents() []agent {
	const maxMessage = 64 << 20 // the suite sends up to 16 MiB
	list := []agent{
		{"messages", echoMessages, websocket.Options{MaxMessageSize: maxMessage, Compression: &websocket.Compression{}}},
		{"read", echoRead, websocket.Options{MaxMessageSize: maxMessage, Compression: &websocket.Compression{Threshold: -1, Level: 9}}},
		{"plain", echoStream, websocket.Options{MaxMessageSize: maxMessage}},
	}
	for bits := 9; bits <= 15; bits++ {
		window := &websocket.Compression{Threshold: -1, ContextTakeover: true, WindowBits: bits}
		list = append(list, agent{
			fmt.Sprintf("stream%d", bits), echoStream,
			websocket.Options{MaxMessageSize: maxMessage, Compression: window},
		})
	}
	return list
}

func serve(addr string) error {
	mux := http.NewServeMux()
	for _, a := range agents() {
		mux.Handle("/"+a.name, websocket.Handler(&a.opts, func(c *websocket.Conn, _ *http.Request) { a.echo(c) }))
	}
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("serving on %s", addr)
	return server.ListenAndServe()
}

func echoMessages(c *websocket.Conn) error {
	ctx := context.Background()
	for m, err := range c.Messages(ctx) {
		if err == nil {
			err = c.Write(ctx, m.Type, m.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func echoRead(c *websocket.Conn) error {
	ctx := context.Background()
	for {
		typ, p, err := c.Read(ctx)
		if err == nil {
			err = c.Write(ctx, typ, p)
		}
		if err != nil {
			return err
		}
	}
}

func echoStream(c *websocket.Conn) error {
	ctx := context.Background()
	for {
		typ, r, err := c.Reader(ctx)
		if err != nil {
			return err
		}
		w, err := c.Writer(ctx, typ)
		if err != nil {
			return err
		}
		if _, err = io.Copy(w, r); err == nil {
			err = w.Close()
		}
		if err != nil {
			return err
		}
	}
}

// dialAll takes part in all cases with all agents. The verdicts are in the reports that the suite then writes.
func dialAll(suite string) error {
	if err := awaitPort(suite); err != nil {
		return err
	}
	var count int
	if err := ask(suite+"/getCaseCount", &count); err != nil {
		return fmt.Errorf("asking for the number of cases: %w", err)
	}
	for _, a := range agents() {
		log.Printf("%s: %d cases", a.name, count)
		for n := 1; n <= count; n++ {
			if err := runCase(suite, a, n); err != nil {
				return fmt.Errorf("%s: case %d of %d: %w", a.name, n, count, err)
			}
		}
		if err := ask(suite+"/updateReports?agent="+a.name, nil); err != nil {
			return fmt.Errorf("having the reports written: %w", err)
		}
	}
	return nil
}

// awaitPort waits until the suite is listening, because a container takes a while to start.
func awaitPort(suite string) error {
	u, err := url.Parse(suite)
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		nc, err := net.Dial("tcp", u.Host)
		if err == nil {
			return nc.Close()
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// runCase takes part in one case and waits until the suite has judged it. It is not an error if the case makes the
// handshake fail.
func runCase(suite string, a agent, n int) error {
	query := url.Values{"case": {strconv.Itoa(n)}, "agent": {a.name}}.Encode()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := websocket.Dial(ctx, suite+"/runCase?"+query, &a.opts)
	if err != nil {
		log.Printf("%s: case %d: %v", a.name, n, err)
	} else {
		a.echo(c)
		c.CloseNow()
	}
	return ask(suite+"/getCaseStatus?"+query, nil)
}

// ask opens a connection on which the suite sends at most one JSON value and closes, without a code. It stores the
// value where answer is not nil.
func ask(url string, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for m, err := range c.Messages(ctx) {
		if err != nil {
			return err
		}
		if answer == nil {
			continue
		}
		if err := json.Unmarshal(m.Data, answer); err != nil {
			return err
		}
	}
	return nil
}
