// Load measures examples/cluster, with three nodes and three NATS servers, and for comparison one node of
// examples/chat, which has the same rooms in one process without NATS. It then kills a node and a NATS server while
// everybody talks, and checks that no client missed a message, received one twice or received them in a different
// order.
//
//	go run ./load
//
// All processes and all clients share this machine. Compare the two columns, not the figures of two machines.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/websocket"
	"example.com/websocket/examples/cluster/client"
)

// size is the number of nodes and of NATS servers.
const size = 3

type settings struct {
	clients, rooms int
	rate           float64 // messages per second in each room
	length         time.Duration
	failRate       float64 // rate, for the run with failures
	failLength     time.Duration
}

func main() {
	var s settings
	flag.IntVar(&s.clients, "clients", 3000, "number of clients")
	flag.IntVar(&s.rooms, "rooms", 30, "number of rooms")
	flag.Float64Var(&s.rate, "rate", 5, "messages per second in each room")
	flag.DurationVar(&s.length, "for", 8*time.Second, "how long to measure each")
	flag.Float64Var(&s.failRate, "failrate", 2, "messages per second in each room while processes are killed")
	flag.DurationVar(&s.failLength, "failfor", 16*time.Second, "how long to talk while processes are killed")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, os.Stdout, s); err != nil {
		stop()
		log.Fatal(err)
	}
}

// measure runs everything and prints the tables.
func measure(ctx context.Context, w io.Writer, s settings) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Fprintf(w, "%d clients in %d rooms, %g messages of 100 bytes a second in each room, for %v; %s, %d CPUs\n\n",
		s.clients, s.rooms, s.rate, s.length, runtime.Version(), runtime.NumCPU())

	alone, err := measureAlone(ctx, b, s)
	if err != nil {
		return err
	}
	b.stop()
	c, err := startCluster(b)
	if err != nil {
		return err
	}
	together, err := c.measure(ctx, s)
	if err != nil {
		return err
	}
	printTable(w, together, alone)
	return c.measureFailures(ctx, w, s)
}

// figures is a column of the table.
type figures struct {
	sent, delivered float64 // per second
	p50, p99        time.Duration
	nodes, nats     []float64 // CPU, in percent of one
	clients         float64
}

// observe measures the given processes while r talks.
func observe(ctx context.Context, r *run, s settings, nodes, nats []*process) figures {
	time.Sleep(2 * time.Second) // until all arrivals have been announced
	pids := []int{os.Getpid()}
	for _, p := range slices.Concat(nodes, nats) {
		pids = append(pids, p.Process.Pid)
	}
	before := make([]time.Duration, len(pids))
	for i, pid := range pids {
		before[i] = cpu(pid)
	}
	begin := time.Now()
	r.talk(ctx, s.rate, s.length)
	took := time.Since(begin)
	var used []float64
	for i, pid := range pids {
		used = append(used, 100*(cpu(pid)-before[i]).Seconds()/took.Seconds())
	}
	return figures{
		sent:      float64(r.sent()) / took.Seconds(),
		delivered: float64(r.delivered.Load()) / took.Seconds(),
		p50:       r.latency(.5),
		p99:       r.latency(.99),
		clients:   used[0],
		nodes:     used[1 : 1+len(nodes)],
		nats:      used[1+len(nodes):],
	}
}

func printTable(out io.Writer, together, alone figures) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(name string, f func(figures) string) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, f(together), f(alone))
	}
	fmt.Fprintf(w, "\t%d nodes, %d NATS servers\t1 node, no NATS\n", size, size)
	row("messages sent a second", func(f figures) string { return fmt.Sprintf("%.0f", f.sent) })
	row("messages delivered a second", func(f figures) string { return fmt.Sprintf("%.0f", f.delivered) })
	row("sender to last receiver, p50", func(f figures) string { return milliseconds(f.p50) })
	row("sender to last receiver, p99", func(f figures) string { return milliseconds(f.p99) })
	row("CPU of each node, % of one", func(f figures) string { return percent(f.nodes) })
	row("CPU of each NATS server", func(f figures) string { return percent(f.nats) })
	row("CPU of all clients", func(f figures) string { return percent([]float64{f.clients}) })
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func percent(all []float64) string {
	if len(all) == 0 {
		return "-"
	}
	var list []string
	for _, f := range all {
		list = append(list, fmt.Sprintf("%.0f", f))
	}
	return strings.Join(list, ", ")
}

// measureAlone measures one node of examples/chat.
func measureAlone(ctx context.Context, b *bench, s settings) (figures, error) {
	node, err := b.startNode("chat")
	if err != nil {
		return figures{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := newRun(s.clients, s.rooms)
	defer r.running.Wait()
	defer cancel()
	err = r.connect(ctx, func(ctx context.Context, _ int, m *member) error { return m.joinChat(ctx, node.url) })
	if err != nil {
		return figures{}, err
	}
	return observe(ctx, r, s, []*process{node}, nil), nil
}

// joinChat makes m a member of a room of examples/chat, whose protocol is simpler.
func (m *member) joinChat(ctx context.Context, node string) error {
	q := url.Values{"name": {m.name}, "room": {m.room.name}}
	c, err := websocket.Dial(ctx, node+"/ws?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	m.say = func(ctx context.Context, text string) error { return c.Write(ctx, websocket.TextMessage, []byte(text)) }
	m.run.running.Go(func() {
		defer c.CloseNow()
		for msg, err := range c.Messages(ctx) {
			var e struct{ You, Text string }
			if err != nil || json.Unmarshal(msg.Data, &e) != nil {
				return
			}
			online := e.You != ""
			m.receive(client.Event{Online: &online, Text: e.Text})
		}
	})
	return nil
}

// A cluster is a set of nodes and NATS servers.
type cluster struct{ nodes, nats []*process }

func startCluster(b *bench) (c cluster, err error) {
	if c.nats, err = b.startNATS(); err != nil {
		return c, err
	}
	for range size {
		p, err := b.startNode("cluster", "-nats", strings.Join(c.natsURLs(), ","), "-replicas", fmt.Sprint(size))
		if err != nil {
			return c, err
		}
		c.nodes = append(c.nodes, p)
	}
	return c, nil
}

func (c cluster) natsURLs() (urls []string) {
	for _, p := range c.nats {
		urls = append(urls, p.url)
	}
	return urls
}

// join distributes the members over the nodes. A member goes to the next node when its own is lost.
func (c cluster) join(ctx context.Context, r *run) error {
	var urls []string
	for _, p := range c.nodes {
		urls = append(urls, p.url)
	}
	return r.connect(ctx, func(ctx context.Context, i int, m *member) error {
		at := i / len(r.rooms) % len(urls)
		nodes := slices.Concat(urls[at:], urls[:at])
		cookie, err := client.SignIn(ctx, nodes[0], m.name)
		if err != nil {
			return err
		}
		cl := &client.Client{
			Nodes: nodes, Room: m.room.name, Cookie: cookie, Receive: m.receive,
			Retry: func(error) { r.reconnected.Add(1) },
		}
		m.say = cl.Say
		r.running.Go(func() { cl.Run(ctx) })
		return nil
	})
}

func (c cluster) measure(ctx context.Context, s settings) (figures, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := newRun(s.clients, s.rooms)
	defer r.running.Wait()
	defer cancel()
	if err := c.join(ctx, r); err != nil {
		return figures{}, err
	}
	f := observe(ctx, r, s, c.nodes, c.nats)
	return f, r.check()
}

// measureFailures kills a node after a quarter of the time and the NATS server that leads the stream after a half.
func (c cluster) measureFailures(ctx context.Context, w io.Writer, s settings) error {
	ctx, cancel := context.WithCancel(ctx)
	r := newRun(s.clients, s.rooms)
	defer r.running.Wait()
	defer cancel()
	for _, rm := range r.rooms {
		rm.name += " again" // the rooms of the first run have messages
	}
	if err := c.join(ctx, r); err != nil {
		return err
	}
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	defer time.AfterFunc(s.failLength/4, c.nodes[0].kill).Stop()
	defer time.AfterFunc(s.failLength/2, leader.kill).Stop()
	r.talk(ctx, s.failRate, s.failLength)
	fmt.Fprintf(w, `
a node is killed (-9) after %v, and the NATS server that leads the stream after %v; per room and second: %g
messages sent: %d, delivered: %d; reconnections: %d; messages refused, and sent again: %d
sender to last receiver: p50 %s, p99 %s, longest %s
`, s.failLength/4, s.failLength/2, s.failRate, r.sent(), r.delivered.Load(), r.reconnected.Load(), r.refused.Load(),
		milliseconds(r.latency(.5)), milliseconds(r.latency(.99)), milliseconds(r.latency(1)))
	if err := r.check(); err != nil {
		return err
	}
	fmt.Fprintf(w, "checked by sequence numbers: all %d clients heard each message of their room once and in the same order\n", s.clients)
	return nil
}

// leader returns the NATS server that leads the stream of the messages.
func (c cluster) leader(ctx context.Context) (*process, error) {
	nc, err := nats.Connect(strings.Join(c.natsURLs(), ","))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, "CHAT")
	if err != nil {
		return nil, err
	}
	for i, p := range c.nats {
		if serverName(i) == stream.CachedInfo().Cluster.Leader {
			return p, nil
		}
	}
	return nil, errors.New("the stream has no leader")
}
