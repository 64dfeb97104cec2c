//go:build !unix

package storm

import "time"

// processorTime and openFiles are unknown on this system.
func processorTime() time.Duration { return 0 }
func openFiles() int               { return 0 }
