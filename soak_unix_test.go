//go:build unix

package websocket

import "syscall"

// raiseFileLimit allows the process all descriptors that it may have, and returns how many that are.
func raiseFileLimit() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return 0, err
		}
	}
	return int(min(uint64(limit.Cur), 1<<20)), nil
}
