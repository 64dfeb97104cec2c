package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startConfigured runs a server with nats.conf, but without the cluster and on a free port. The URL contains the nodes'
// password.
func startConfigured(t *testing.T) (url string, s *server.Server) {
	t.Helper()
	opts, err := server.ProcessConfigFile("nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, t.TempDir()
	opts.Cluster, opts.Routes, opts.NoSigs = server.ClusterOpts{}, nil, true
	s, err = server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	return strings.Replace(s.ClientURL(), "://", "://chat:secret@", 1), s
}

func TestConfig_ForProduction_LetsNodesDoWhatTheyMust(t *testing.T) {
	t.Parallel()
	url, _ := startConfigured(t)
	one, two := startNode(t, url), startNode(t, url)
	ann, bob := join(t, one.url, "lobby", "Ann"), join(t, two.url, "lobby", "Bob")
	ann.sees("Ann", "Bob")
	bob.say("hello")
	ann.hears("hello")
	if err := one.Bus.nc.Publish("live."+token("lobby"), nil); err != nil {
		t.Fatal(err)
	}
	one.Bus.nc.Flush()
	if one.Bus.nc.LastError() == nil {
		t.Error("a node may write where only the stream should")
	}
	ann.CloseNow()
	bob.sees("Bob")
}

// NATS is still reachable without JetStream, or while the stream has no leader.
func TestNode_WithoutJetStream_TellsItsMembers(t *testing.T) {
	t.Parallel()
	url, s := startConfigured(t)
	node := startNode(t, url)
	ann := join(t, node.url, "lobby", "Ann")
	ann.hasOnline(true)
	if err := s.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	ann.hasOnline(false)
	ann.send("1", "hello")
	ann.until("a refusal", func(e event) bool { return e.Refused == "1" })
}
