//go:build !race

package websocket

// raceEnabled is whether the race detector is on, which allocates and is slow.
const raceEnabled = false
