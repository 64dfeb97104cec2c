package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/websocket/examples/cluster/client"
)

// freePorts returns free addresses.
func freePorts(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs
}

// A witness is a client in a room, with everything that it received there.
type witness struct {
	*client.Client
	name string

	want int           // total number of messages in the room
	all  chan struct{} // closed when all were received

	mu     sync.Mutex // guards the fields below
	heard  []client.Event
	faults []string
}

func (w *witness) receive(e client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Seq != 0 {
		if w.heard = append(w.heard, e); len(w.heard) == w.want {
			close(w.all)
		}
	}
	if e.Gap {
		w.faults = append(w.faults, fmt.Sprintf("a gap after %d messages", len(w.heard)))
	}
}

// Three NATS servers and three nodes, each a process. A node and the server that leads the stream are killed by SIGKILL
// while everybody talks. No message is lost or received twice, and the order is the same for everybody.
func TestCluster_LosesNothing_WhenANodeAndANATSServerAreKilled(t *testing.T) {
	t.Parallel()
	servers, nodes := startCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var all []*witness
	for i := range 9 {
		w := newWitness(t, i, nodes)
		all = append(all, w)
		running.Go(func() { w.Run(ctx) })
	}

	talk(t, ctx, all, "before", func() {})
	talk(t, ctx, all, "node killed", nodes[0].kill)
	talk(t, ctx, all, "server killed", servers[streamLeader(t, servers)].kill)
	for _, room := range rooms {
		compare(t, all, room)
	}
}

// startCluster starts three NATS servers and three nodes. It returns the servers by their URLs.
func startCluster(t *testing.T) (servers map[string]*process, nodes []*process) {
	t.Helper()
	addrs := freePorts(t, 3)
	routes := "nats://" + strings.Join(addrs, ",nats://")
	servers = make(map[string]*process)
	for _, addr := range addrs {
		p := startProcess(t, "nats", "127.0.0.1:0", addr, routes)
		p.url = p.readURL()
		servers[p.url] = p
	}
	urls := strings.Join(slices.Collect(maps.Keys(servers)), ",")
	for range 3 {
		nodes = append(nodes, startProcess(t, "node", "-addr", "127.0.0.1:0", "-nats", urls, "-replicas", "3"))
	}
	for _, p := range nodes {
		p.url = p.readURL()
	}
	return servers, nodes
}

const (
	phases = 3
	each   = 3 // messages of each witness in each phase
)

var rooms, members = []string{"lobby", "cellar"}, []int{5, 4}

// newWitness returns the ith of nine witnesses. They are distributed over rooms and nodes.
func newWitness(t *testing.T, i int, nodes []*process) *witness {
	t.Helper()
	w := &witness{name: fmt.Sprint("P", i), want: phases * each * members[i%2], all: make(chan struct{})}
	cookie := signIn(t, nodes[i%3].url, w.name)
	w.Client = &client.Client{Room: rooms[i%2], Cookie: cookie, Receive: w.receive}
	for j := range nodes {
		w.Nodes = append(w.Nodes, nodes[(i+j)%3].url)
	}
	return w
}

// talk has all witnesses say something at the same time, and calls strike after the first message.
func talk(t *testing.T, ctx context.Context, all []*witness, phase string, strike func()) {
	t.Helper()
	var talking sync.WaitGroup
	var once sync.Once
	for _, w := range all {
		talking.Go(func() {
			for i := range each {
				if err := w.Say(ctx, fmt.Sprint(phase, " ", w.name, " ", i)); err != nil {
					t.Error(phase, w.name, err)
				}
				once.Do(strike)
			}
		})
	}
	talking.Wait()
}

// streamLeader returns the URL of the NATS server that leads the stream.
func streamLeader(t *testing.T, servers map[string]*process) string {
	t.Helper()
	for url := range servers {
		b := openBus(t, url)
		s, err := b.stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.nc.ConnectedServerName() == s.CachedInfo().Cluster.Leader {
			return url
		}
	}
	t.Fatal("the stream has no leader")
	return ""
}

// compare checks that everybody in the room received all messages, each once, in the order of the stream.
func compare(t *testing.T, all []*witness, room string) {
	t.Helper()
	all = slices.DeleteFunc(slices.Clone(all), func(w *witness) bool { return w.Room != room })
	for _, w := range all {
		select {
		case <-w.all:
		case <-time.After(patienceOfTests):
		}
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	texts := make(map[string]bool)
	for i, e := range all[0].heard {
		if texts[e.Text] = true; i > 0 && e.Seq <= all[0].heard[i-1].Seq {
			t.Errorf("%s: message %d comes after %d", room, e.Seq, all[0].heard[i-1].Seq)
		}
	}
	if len(texts) != all[0].want {
		t.Errorf("%s: %d different messages, want %d", room, len(texts), all[0].want)
	}
	for _, w := range all {
		if !slices.EqualFunc(w.heard, all[0].heard, func(a, b client.Event) bool { return a.Seq == b.Seq && a.Text == b.Text }) {
			t.Errorf("%s: %s heard\n%v, %s heard\n%v", room, w.name, w.heard, all[0].name, all[0].heard)
		}
		for _, fault := range w.faults {
			t.Errorf("%s: %s: %s", room, w.name, fault)
		}
	}
}
