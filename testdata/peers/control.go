package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The load generator controls the process under test with lines of JSON on its standard input and output.

type request struct {
	Op         string // listen, stats, footprint, writers, push, broadcast, dial, run, memory
	Mode       string // listen: echo, nap, sink, hub; memory: read, write
	Options    options
	Addr       string // dial; writers, push, broadcast: the server that listen started
	Conns      int    // dial
	Goroutines int    // writers
	Size       int
	Burst      int // broadcast: messages
	Duration   time.Duration
}

type reply struct {
	Error     string `json:",omitempty"`
	Addr      string
	Count     int64 // messages
	Usage     usage // since the process began; of the operation itself for run and memory
	Footprint footprint
}

// usage is the resources that a process has used.
type usage struct {
	CPU     time.Duration // user and system
	Mallocs uint64
	Reads   uint64 // system calls of the read and write families, /proc/self/io
	Writes  uint64
}

func (u usage) minus(v usage) usage {
	return usage{u.CPU - v.CPU, u.Mallocs - v.Mallocs, u.Reads - v.Reads, u.Writes - v.Writes}
}

// footprint is the memory that a process holds after a garbage collection.
type footprint struct {
	Heap       uint64 // live objects
	Stack      uint64
	Runtime    uint64 // MemStats.Sys without the memory returned to the system
	RSS        uint64
	Goroutines int
}

// A child is a process under test.
type child struct {
	lib  library
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *bufio.Reader
	stop func() error
}

// profiles is the directory for CPU profiles of the processes under test; empty: none.
var profiles string

func profileFor(lib string) string {
	if profiles == "" {
		return ""
	}
	return filepath.Join(profiles, lib+".pprof")
}

// spawn starts this program again as the process under test.
func spawn(lib library) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "serve", "-lib", lib.name, "-cpuprofile", profileFor(lib.name))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{lib: lib, cmd: cmd, in: json.NewEncoder(in), out: bufio.NewReader(out), stop: in.Close}, nil
}

// call sends one request and waits for its reply.
func (c *child) call(q request) (reply, error) {
	var r reply
	if err := c.in.Encode(q); err != nil {
		return r, err
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("%s: %s: %w", c.lib.name, q.Op, err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(c.lib.name + ": " + q.Op + ": " + r.Error)
	}
	return r, nil
}

func (c *child) listen(mode string, o options) (string, error) {
	r, err := c.call(request{Op: "listen", Mode: mode, Options: o})
	return r.Addr, err
}

func (c *child) usage() (usage, error) {
	r, err := c.call(request{Op: "stats"})
	return r.Usage, err
}

// close ends the process, which exits at the end of its input.
func (c *child) close() {
	_ = c.stop()
	late := time.AfterFunc(2*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	_ = c.cmd.Wait()
}
