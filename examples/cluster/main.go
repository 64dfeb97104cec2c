// Cluster is a chat with rooms that runs in any number of processes, connected by NATS JetStream.
//
//	go run .                                              a node with a NATS server of its own
//	go run . -addr :8082 -nats nats://127.0.0.1:4222      a second node
//
// README.md shows a cluster of NATS servers and explains the protocol.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// startTime bounds the wait for NATS: the servers of a cluster elect a leader first.
const startTime = time.Minute

type config struct {
	addr     string
	nats     string // "" starts embedded
	embedded Embedded
	replicas int
}

func main() {
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8080", "address of the chat; port 0 takes a free one")
	flag.StringVar(&c.nats, "nats", os.Getenv("NATS_URL"), "URLs of NATS servers, separated by commas (NATS_URL); none starts a NATS server in this process")
	flag.StringVar(&c.embedded.Addr, "listen-nats", "127.0.0.1:4222", "address for clients of the NATS server in this process")
	flag.StringVar(&c.embedded.Dir, "dir", "", "folder of its JetStream; none is a temporary folder, removed at the end")
	flag.StringVar(&c.embedded.Cluster, "cluster", "", "its address for other NATS servers")
	flag.StringVar(&c.embedded.Routes, "routes", "", "URLs of other NATS servers, separated by commas: nats://host:port")
	flag.IntVar(&c.replicas, "replicas", 0, "copies of what JetStream stores, if this node is the first; 0 is 3 with -cluster and 1 without")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	if err := run(ctx, c); err != nil {
		log.Fatal(err)
	}
}

// run runs a node until ctx ends.
func run(ctx context.Context, c config) error {
	if c.replicas == 0 {
		c.replicas = 1
		if c.embedded.Cluster != "" {
			c.replicas = 3
		}
	}
	if c.nats == "" {
		url, stop, err := c.embedded.Start()
		if err != nil {
			return err
		}
		defer stop()
		c.nats = url
		fmt.Println("cluster: NATS at", url)
	}
	ln, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	log.Print("waiting for JetStream")
	n, err := newNode(ctx, c.nats, c.replicas)
	if err != nil {
		return fmt.Errorf("JetStream is not available: %w", err)
	}
	fmt.Printf("cluster: open http://%s in two tabs; Ctrl-C ends it\n", ln.Addr())
	return n.Serve(ctx, ln)
}

// newNode returns a node that is connected to NATS.
func newNode(ctx context.Context, url string, replicas int) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	bus, err := OpenBus(ctx, url, replicas)
	if err != nil {
		return nil, err
	}
	people, err := OpenDirectory(ctx, bus)
	var s signer
	if err == nil {
		err = retry(ctx, func(ctx context.Context) (err error) { s.key, err = sharedKey(ctx, bus.js, replicas); return err })
	}
	if err != nil {
		bus.Close()
		return nil, err
	}
	return &Node{
		Bus:          bus,
		People:       people,
		Authenticate: s.authenticate,
		SignIn:       s.signIn,
		MaxPending:   maxPending,
		rooms:        make(map[string]*room),
		speakers:     make(map[string]*speaker),
	}, nil
}
