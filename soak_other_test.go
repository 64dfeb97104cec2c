//go:build !unix

package websocket

// raiseFileLimit returns how many descriptors the process may have.
func raiseFileLimit() (int, error) { return 1 << 20, nil }
