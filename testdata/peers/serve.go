package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process under test: servers, and operations that the load generator cannot start from outside.
type process struct {
	lib     library
	hubs    map[string]*hub // by address
	clients clients
}

// serve answers requests until its input ends.
func serve(lib library, in io.Reader, out io.Writer) error {
	p := &process{lib: lib, hubs: make(map[string]*hub)}
	lines := bufio.NewScanner(in)
	enc := json.NewEncoder(out)
	for lines.Scan() {
		var q request
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return err
		}
		r, err := p.do(q)
		if err != nil {
			r.Error = err.Error()
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (p *process) do(q request) (reply, error) {
	switch q.Op {
	case "listen":
		h := &hub{}
		addr, err := listen(p.lib, q.Options, mode(q.Mode, h))
		p.hubs[addr] = h
		return reply{Addr: addr}, err
	case "stats":
		return reply{Usage: used()}, nil
	case "footprint":
		return reply{Footprint: held()}, nil
	case "writers":
		n, err := p.hubs[q.Addr].writers(p.lib, q)
		return reply{Count: n}, err
	case "push":
		n, err := p.hubs[q.Addr].push(q)
		return reply{Count: n}, err
	case "broadcast":
		n, err := p.hubs[q.Addr].broadcast(p.lib, q)
		return reply{Count: n}, err
	case "dial":
		return reply{}, p.clients.dial(p.lib, q)
	case "run":
		return measure(func() (int64, error) { return p.clients.run(q) })
	case "memory":
		return p.memory(q)
	}
	return reply{}, fmt.Errorf("no operation %q", q.Op)
}

// mode is how a server handles its connections.
func mode(mode string, h *hub) *events {
	switch mode {
	case "echo":
		return events{message: func(c conn, text bool, m []byte) { _ = c.send(text, m) }}.withDefaults()
	case "nap":
		return napping().withDefaults()
	case "sink": // answers only messages of one byte, with which the load asks whether everything was read
		return events{message: func(c conn, text bool, m []byte) {
			if len(m) == 1 {
				_ = c.send(text, m)
			}
		}}.withDefaults()
	}
	return events{open: h.add, closed: h.remove}.withDefaults()
}

// listen starts a server of the library on a loopback address.
func listen(lib library, o options, ev *events) (string, error) {
	if lib.listen != nil {
		return lib.listen(o, ev)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	if o.Own {
		go lib.serve(l, o, ev)
		return l.Addr().String(), nil
	}
	handler := lib.handler
	if o.Upgrade {
		handler = lib.upgrade
	}
	srv := &http.Server{Handler: handler(o, ev), ErrorLog: log.New(io.Discard, "", 0)}
	if !o.TLS {
		go srv.Serve(l)
		return l.Addr().String(), nil
	}
	cert, _, err := selfSigned()
	if err != nil {
		return "", err
	}
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	go srv.ServeTLS(l, "", "")
	return l.Addr().String(), nil
}

// selfSigned returns a certificate for loopback and its key in PKCS #8.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pkcs8, err
}

// measure runs f and adds the resources that the process used meanwhile.
func measure(f func() (int64, error)) (reply, error) {
	before := used()
	n, err := f()
	return reply{Count: n, Usage: used().minus(before)}, err
}

func used() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{Mallocs: m.Mallocs}
	u.Reads, u.Writes = syscalls()
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) == nil {
		u.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	return u
}

// syscalls counts this process's calls of the read and write families, failed ones included.
func syscalls() (reads, writes uint64) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "syscr":
			reads = n
		case "syscw":
			writes = n
		}
	}
	return reads, writes
}

func held() footprint {
	for range 3 { // the second empties the sync.Pools' victims
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{Heap: m.HeapAlloc, Stack: m.StackInuse, Runtime: m.Sys - m.HeapReleased, Goroutines: runtime.NumGoroutine()}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		_, _ = fmt.Sscan(string(b), &size, &resident)
		f.RSS = resident * uint64(os.Getpagesize())
	}
	return f
}

// A hub holds the connections of a server that sends unprompted.
type hub struct {
	mu    sync.Mutex
	conns []conn
}

func (h *hub) add(c conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c)
}

func (h *hub) remove(c conn, _ int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.conns, c); i >= 0 {
		h.conns = slices.Delete(h.conns, i, i+1)
	}
}

// last returns the newest connection, which may not have been opened yet after the handshake.
func (h *hub) last() (conn, error) {
	if cs := h.all(1); len(cs) > 0 {
		return cs[len(cs)-1], nil
	}
	return nil, fmt.Errorf("no connection in the hub")
}

// all waits until there are at least n connections.
func (h *hub) all(n int) []conn {
	for range 1000 {
		h.mu.Lock()
		cs := slices.Clone(h.conns)
		h.mu.Unlock()
		if len(cs) >= n {
			return cs
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}
