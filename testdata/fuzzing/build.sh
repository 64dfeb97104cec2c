#!/bin/bash -eu
# Builds each fuzz target of the package for OSS-Fuzz. It runs in the service's base-builder-go container.
cd "$SRC/websocket"

# The service's builder turns the test files into ordinary files, so those of the external test package must be removed.
grep -l '^package websocket_test' ./*_test.go | xargs -r rm

for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' ./*_test.go | cut -c6-); do
	compile_native_go_fuzzer_v2 example.com/websocket "$target" "$target"
done
