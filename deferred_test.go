package websocket

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// An answer that was deferred, for more messages stand in the read buffer, leaves without a timer while the handler of
// the first one computes: it goes on until the answer has arrived.
func TestConn_Writes_DeferredAnswerWhileCallerComputes(t *testing.T) {
	for _, procs := range []int{1, 2} {
		t.Run(fmt.Sprint(procs, "Processors"), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			near, far := tcpEnds(t)
			c, p := connectOver(t, near, far, true)
			p.send("82 01 61", "82 01 62")
			var arrived atomic.Bool
			handled := background(func() bool {
				typ, b, err := c.Read(context.Background())
				if err != nil || c.Write(context.Background(), typ, b) != nil {
					return false
				}
				for limit := time.Now().Add(20 * time.Second); !arrived.Load() && time.Now().Before(limit); {
				}
				return arrived.Load()
			})
			p.expect("82 01 61")
			arrived.Store(true)
			if !<-handled {
				t.Error("the answer was held back until the handler had ended")
			}
		})
	}
}
