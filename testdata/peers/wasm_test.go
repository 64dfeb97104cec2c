package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The smallest client in WebAssembly is smaller than the same program with coder/websocket, if it leaves out what names
// net/http.
func TestWebAssembly_IsSmallerThanCoder(t *testing.T) {
	ours, small, coder := wasmSize(t, "./wasm/ours"), wasmSize(t, "./wasm/ours", "-tags=websocket_nohttp"), wasmSize(t, "./wasm/coder")
	if small >= coder {
		t.Errorf("%d bytes with -tags=websocket_nohttp, %d with coder", small, coder)
	}
	if ours > coder*6/5 {
		t.Errorf("%d bytes, %d with coder", ours, coder)
	}
}

// wasmSize builds a program as README says and returns its size.
func wasmSize(t *testing.T, program string, flags ...string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.wasm")
	cmd := exec.Command("go", append(append([]string{"build", "-ldflags=-s", "-o", file}, flags...), program)...)
	cmd.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	z.Write(p)
	z.Close()
	t.Logf("%s %v: %d bytes, %d with gzip", program, flags, len(p), packed.Len())
	return len(p)
}
