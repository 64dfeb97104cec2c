package main

import (
	"errors"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Embedded configures a NATS server inside this process.
type Embedded struct {
	Addr    string // for clients; port 0 means a free port
	Dir     string // of JetStream; "" means a temporary folder, which stop removes
	Cluster string // address for the other servers; "" means a single server
	Routes  string // URLs of other servers, separated by commas
}

// Start runs the server. The URL is for clients.
func (e Embedded) Start() (url string, stop func(), err error) {
	host, port, err := splitAddr(e.Addr)
	if err != nil {
		return "", nil, err
	}
	remove := func() {}
	if e.Dir == "" {
		if e.Dir, err = os.MkdirTemp("", "chat-*"); err != nil {
			return "", nil, err
		}
		remove = func() { os.RemoveAll(e.Dir) }
	}
	opts := &server.Options{
		ServerName:          "chat-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(port),
		Host:                host,
		Port:                port,
		JetStream:           true,
		StoreDir:            e.Dir,
		JetStreamMaxMemory:  256 << 20,
		JetStreamMaxStore:   4 << 30,
		NoSigs:              true,
		ConnectErrorReports: 60, ReconnectErrorReports: 60, // log one in 60 attempts to reach another server
	}
	if err == nil && e.Cluster != "" {
		opts.Cluster.Name = "chat"
		opts.Cluster.Host, opts.Cluster.Port, err = splitAddr(e.Cluster)
		opts.Routes = server.RoutesFromStr(e.Routes)
	}
	var s *server.Server
	if err == nil {
		s, err = server.NewServer(opts)
	}
	if err != nil {
		remove()
		return "", nil, err
	}
	s.SetLoggerV2(natsLog{}, false, false, false)
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
		remove()
	}
	if !s.ReadyForConnections(10 * time.Second) {
		stop()
		return "", nil, errors.New("the NATS server does not start; its log says why")
	}
	return s.ClientURL(), stop, nil
}

// splitAddr returns -1, with which NATS chooses a free port, for port 0.
func splitAddr(addr string) (host string, port int, err error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return "", 0, err
	}
	if a.Port == 0 {
		a.Port = server.RANDOM_PORT
	}
	host, _, _ = net.SplitHostPort(addr)
	return host, a.Port, nil
}

// natsLog logs the warnings and errors of the NATS server.
type natsLog struct{}

func (natsLog) Warnf(format string, v ...any)  { log.Printf("nats: "+format, v...) }
func (natsLog) Errorf(format string, v ...any) { log.Printf("nats: "+format, v...) }
func (natsLog) Fatalf(format string, v ...any) { log.Printf("nats: "+format, v...) }
func (natsLog) Noticef(string, ...any)         {}
func (natsLog) Debugf(string, ...any)          {}
func (natsLog) Tracef(string, ...any)          {}
