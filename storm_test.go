package websocket_test

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"

	"example.com/websocket/testdata/soak/storm"
)

// A short storm over every transport, checked against a model. The program in testdata/soak runs longer ones.
func TestStorm_AgreesWithTheModel(t *testing.T) {
	if !storm.CanRun() { // net/http reads its environment when a process starts
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = storm.Environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	var log bytes.Buffer
	s := &storm.Storm{Seed: 1, Duration: 2 * time.Second, Pairs: 6, Only: -1, Patience: 20 * time.Second, Log: &log}
	if findings, err := s.Run(); findings > 0 || err != nil {
		t.Fatalf("%d findings, %v\n%s", findings, err, &log)
	}
}
