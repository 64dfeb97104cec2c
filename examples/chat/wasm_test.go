package main

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// A page may compile WebAssembly only if its policy says so.
func TestChat_ServesTheWasmPage_WithItsPolicy(t *testing.T) {
	for path, wasm := range map[string]bool{"/": false, "/chat.js": false, "/wasm/": true, "/wasm/start.js": true} {
		w := httptest.NewRecorder()
		routes(newHub()).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		policy := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || strings.Contains(policy, "'wasm-unsafe-eval'") != wasm || strings.Contains(policy, "'unsafe-eval'") {
			t.Errorf("%s: status %d, policy %q", path, w.Code, policy)
		}
	}
}
