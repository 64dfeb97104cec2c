// Command soak calls the methods of connections over every transport at random, and compares the results with a model.
// It prints whatever contradicts the model, with the seed that chose it, and exits with 1.
//
//	go run -race ./testdata/soak -for 10m
//	go run ./testdata/soak -parked 5000 -for 2m
//	go run -race ./testdata/soak -seed 17 -rounds 1 -pair 3
//	go run -race -tags nosyscall ./testdata/soak -wires tcp,unix
//
// A seed chooses the same connections, actors and calls each time. It does not control the scheduler, so it may take a
// few rounds with the same seed to reproduce a finding. With the tag nosyscall, the package uses only the methods of
// net.Conn, as on Windows.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"example.com/websocket/testdata/soak/storm"
)

func main() {
	s := &storm.Storm{Log: os.Stdout}
	flag.Uint64Var(&s.Seed, "seed", rand.Uint64()>>44, "of the first round")
	flag.DurationVar(&s.Duration, "for", 30*time.Second, "how long to begin rounds")
	flag.IntVar(&s.Rounds, "rounds", 0, "how many rounds; 0: as many as begin in time")
	flag.IntVar(&s.Pairs, "pairs", 16, "connections of a round")
	flag.IntVar(&s.Only, "pair", -1, "the one connection of each round to run; negative: all")
	flag.DurationVar(&s.Patience, "patience", 2*time.Second, "how long a call may take when nothing keeps it")
	same := flag.Bool("same", false, "repeat the round with the same seed")
	wires := flag.String("wires", "", "beginnings of the names of transports, such as \"tcp,tls\"; empty: all")
	parked := flag.Int("parked", 0, "run rounds of so many idle connections with OnMessage instead of the storm")
	procs := flag.Int("procs", 0, "GOMAXPROCS; 0: as it is")
	flag.Parse()
	log.SetFlags(0)
	if !storm.CanRun() {
		os.Exit(runAgain())
	}
	if *wires != "" {
		s.Wires = strings.Split(*wires, ",")
	}
	if *procs > 0 {
		runtime.GOMAXPROCS(*procs)
	}
	s.Same = *same
	fmt.Printf("seed %d\n", s.Seed)
	if *parked > 0 {
		soak := &storm.Parked{Conns: *parked, Duration: s.Duration, Seed: s.Seed, Log: os.Stdout}
		if soak.Run() > 0 {
			os.Exit(1)
		}
		return
	}
	findings, err := s.Run()
	if err != nil {
		log.Fatal(err)
	}
	if findings > 0 {
		os.Exit(1)
	}
}

// runAgain runs the program again with the environment that a storm needs, and returns its exit code.
func runAgain() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = storm.Environ()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		log.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
