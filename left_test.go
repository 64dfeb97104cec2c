package websocket

import (
	"context"
	"testing"
)

// A probe is a membership that looks at the connection when that leaves.
type probe struct{ early, late int }

func (p *probe) drop(c *Conn) {
	if c.Context().Err() == nil {
		p.early++
	} else {
		p.late++
	}
}

// Whoever has waited for the end of a connection, such as Shutdown, does not find it in a group.
func TestGroup_IsLeftBeforeContextIsDone(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		for name, end := range memberEndings {
			c, p := connectRaw(t, server, keepAlive)
			var left probe
			c.join(&left)
			end(t, c, p)
			<-c.Context().Done()
			if left.early == 0 || left.late != 0 {
				t.Errorf("%s: left %d times before the context was done, %d times after", name, left.early, left.late)
			}
		}
	})
}

// A Shutdown that meets other ends returns when they are over.
func TestGroup_ShutdownMeetsOtherEnds(t *testing.T) {
	for range 2000 {
		var g Group
		server, client := Pipe(&Options{Group: &g}, nil)
		go client.CloseNow()
		go server.Read(context.Background())
		go server.CloseNow()
		if err := g.Shutdown(t.Context(), StatusGoingAway, ""); err != nil || g.Len() != 0 {
			t.Fatalf("%v, %d members are left", err, g.Len())
		}
		if server.Context().Err() == nil {
			t.Fatal("the connection has not ended")
		}
	}
}
