//go:build ignore

// Build compiles the client in this directory to page/wasm, next to Go's wasm_exec.js. "go generate" runs it in the
// server's directory.
package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	build := exec.Command("go", "build", "-ldflags=-s", "-o", "page/wasm/chat.wasm", "./wasm")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		log.Fatal(err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		log.Fatal(err)
	}
	glue, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "lib", "wasm", "wasm_exec.js"))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("page/wasm/wasm_exec.js", glue, 0o644); err != nil {
		log.Fatal(err)
	}
}
