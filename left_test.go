package websocket

import (
	"context"
	"testing"
)

// A goroutine that has waited for the end of a connection, such as Shutdown, does not find it in a group.
func TestGroup_IsLeftBeforeContextIsDone(t *testing.T) {
	eachRoleByPipe(t, func(t *testing.T, server bool) {
		for name, end := range memberEndings {
			c, p := connectRaw(t, server, keepAlive)
			var g Group
			g.Add(c)
			left := make(chan int, 1)
			context.AfterFunc(c.Context(), func() { left <- g.Len() })
			end(t, c, p)
			if n := <-left; n != 0 {
				t.Errorf("%s: the context was done before the connection left its group", name)
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
