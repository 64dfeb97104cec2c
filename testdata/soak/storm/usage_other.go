//go:build !unix

package storm

import "time"

// processorTime and openFiles are not known here.
func processorTime() time.Duration { return 0 }
func openFiles() int               { return 0 }
