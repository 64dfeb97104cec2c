package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startConfigured runs a server as nats.conf says, but alone and on a free port.
func startConfigured(t *testing.T) (url string) {
	t.Helper()
	t.Setenv("NATS_NAME", "nats-1")
	t.Setenv("CHAT_PASSWORD", "secret")
	opts, err := server.ProcessConfigFile("nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, t.TempDir()
	opts.Cluster, opts.Routes, opts.NoSigs = server.ClusterOpts{}, nil, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	return s.ClientURL()
}

func TestConfig_ForProduction_LetsNodesDoWhatTheyMust(t *testing.T) {
	url := startConfigured(t)
	withPassword := strings.Replace(url, "://", "://chat:secret@", 1)
	one, two := startNode(t, withPassword), startNode(t, withPassword)
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
