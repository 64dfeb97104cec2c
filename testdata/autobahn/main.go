// Command autobahn runs the package against the Autobahn test suite: as the server that its fuzzingclient tests, or as
// the client that its fuzzingserver tests. README.md says how.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"example.com/websocket"
)

func main() {
	serveAt := flag.String("serve", "", "address to serve on, for the suite's fuzzingclient: 127.0.0.1:9002")
	suite := flag.String("dial", "", "URL of the suite's fuzzingserver: ws://127.0.0.1:9001")
	flag.Parse()
	log.SetFlags(0)
	switch {
	case *serveAt != "":
		log.Fatal(serve(*serveAt))
	case *suite != "":
		if failed := dialAll(*suite); failed > 0 {
			log.Fatalf("%d cases failed", failed)
		}
	default:
		flag.Usage()
		os.Exit(2)
	}
}

// An agent is a way to use the package. Each goes through all cases.
type agent struct {
	name string // its path at our server, and its name in the suite's reports
	echo func(*websocket.Conn) error
	opts websocket.Options
}

// agents are each way to read, and each size of the window, with messages as streams, where an error is seen soonest.
func agents() []agent {
	const maxMessage = 64 << 20 // the suite sends up to 16 MiB
	list := []agent{
		{"messages", echoMessages, websocket.Options{MaxMessageSize: maxMessage, Compression: &websocket.Compression{}}},
		{"read", echoRead, websocket.Options{MaxMessageSize: maxMessage, Compression: &websocket.Compression{Threshold: -1, Level: 9}}},
		{"plain", echoStream, websocket.Options{MaxMessageSize: maxMessage}},
	}
	for bits := 8; bits <= 15; bits++ {
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

// dialAll runs all cases with all agents, and returns how many failed.
func dialAll(suite string) int {
	failed := 0
	for _, a := range agents() {
		count, err := caseCount(suite)
		if err != nil {
			log.Fatal(err)
		}
		verdicts := make(map[string]int)
		for n := 1; n <= count; n++ {
			verdict := runCase(suite, a, n)
			verdicts[verdict]++
			if verdict != "OK" && verdict != "INFORMATIONAL" && verdict != "UNIMPLEMENTED" {
				log.Printf("%s: case %d of %d: %s", a.name, n, count, verdict)
				failed++
			}
		}
		ask(suite+"/updateReports?agent="+a.name, nil)
		log.Printf("%s: %d cases: %v", a.name, count, verdicts)
	}
	return failed
}

func caseCount(suite string) (int, error) {
	var count string
	if err := ask(suite+"/getCaseCount", &count); err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(count))
}

// runCase takes part in one case and returns the suite's verdict.
func runCase(suite string, a agent, n int) string {
	query := url.Values{"case": {strconv.Itoa(n)}, "agent": {a.name}}.Encode()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := websocket.Dial(ctx, suite+"/runCase?"+query, &a.opts)
	if err != nil {
		return err.Error()
	}
	a.echo(c)
	c.CloseNow()
	var answer string
	if err := ask(suite+"/getCaseStatus?"+query, &answer); err != nil {
		return err.Error()
	}
	var status struct{ Behavior string }
	if err := json.Unmarshal([]byte(answer), &status); err != nil {
		return err.Error()
	}
	return status.Behavior
}

// ask opens a connection on which the suite says one thing, and stores that where answer is not nil.
func ask(url string, answer *string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for {
		_, p, err := c.Read(ctx)
		if errors.Is(err, websocket.StatusNormalClosure) {
			return nil
		}
		if err != nil {
			return err
		}
		if answer != nil {
			*answer = string(p)
		}
	}
}
