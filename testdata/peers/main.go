// Peers compares the speed and memory of this package with other WebSocket libraries, and its tests connect this
// package to each of them.
//
//	go test ./...
//	go run . bench
//	go run . bench -quick -scenario echo,pipeline -libs ours,gobwas
//	go run . deflate
//
// The load generator and the library under test run in separate processes: the program starts itself again for each
// library.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "bench":
			return benchCommand(args[1:])
		case "deflate":
			return deflateCommand(args[1:])
		case "serve":
			return serveCommand(args[1:])
		}
	}
	return fmt.Errorf("usage: peers bench or peers deflate, [flags]")
}

// serveCommand runs the process under test, which bench starts.
func serveCommand(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := fs.String("lib", "", "library")
	profile := fs.String("cpuprofile", "", "file")
	if err := fs.Parse(args); err != nil {
		return err
	}
	lib, ok := findLibrary(*name)
	if !ok {
		return fmt.Errorf("no library %q", *name)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return serve(lib, os.Stdin, os.Stdout)
}

func benchCommand(args []string) error {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	pick := fs.String("scenario", strings.Join(names, ","), "scenarios, separated by commas")
	libs := fs.String("libs", defaultLibraries, "libraries, separated by commas")
	slice := fs.Duration("slice", 250*time.Millisecond, "time of one library's turn")
	rounds := fs.Int("rounds", 2, "rounds of two passes, there and back")
	idle := fs.Int("idle", 10_000, "connections of the idle scenario")
	quick := fs.Bool("quick", false, "a look in under a minute: -slice 50ms -rounds 1 -idle 1000")
	out := fs.String("out", "", "directory for bench.md and the charts")
	fs.StringVar(&profiles, "profiles", "", "directory for a CPU profile of each library's process, of the last scenario")
	limit := fs.Duration("timeout", 15*time.Minute, "end of it all")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *quick {
		*slice, *rounds, *idle = 50*time.Millisecond, 1, 1000
	}
	raiseDescriptors()
	time.AfterFunc(*limit, func() {
		fmt.Fprintln(os.Stderr, "peers: out of time")
		os.Exit(1) // the children exit at the end of their input
	})
	b := &bench{slice: *slice, rounds: *rounds, idle: *idle, log: os.Stderr, report: newReport()}
	for name := range strings.SplitSeq(*libs, ",") {
		l, ok := findLibrary(name)
		if !ok {
			return fmt.Errorf("no library %q", name)
		}
		b.libs = append(b.libs, l)
	}
	if err := b.run(strings.Split(*pick, ","), names); err != nil {
		return err
	}
	b.report.text(os.Stdout)
	if *out != "" {
		return b.report.save(*out)
	}
	return nil
}

func (b *bench) run(pick, known []string) error {
	for _, name := range pick {
		if !slices.Contains(known, name) {
			return fmt.Errorf("no scenario %q", name)
		}
	}
	for _, s := range scenarios {
		if !slices.Contains(pick, s.name) {
			continue
		}
		if err := s.run(b); err != nil {
			b.report.text(os.Stdout) // the results from before the failure
			return err
		}
	}
	return nil
}

// raiseDescriptors lifts the limit as far as the system allows; children inherit it.
func raiseDescriptors() {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return
	}
	all := r
	if b, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		_, _ = fmt.Sscan(string(b), &all.Max)
	}
	all.Cur, r.Cur = all.Max, r.Max
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &all) != nil { // only root may raise the hard limit
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
	}
}
