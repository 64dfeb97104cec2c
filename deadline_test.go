package websocket

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// checkDeadline checks whether a context of a deadline is done, after all that is due has happened.
func checkDeadline(t *testing.T, when string, ctx context.Context, passed bool) {
	t.Helper()
	synctest.Wait()
	if done := ctx.Err() != nil; done != passed || passed && context.Cause(ctx) != os.ErrDeadlineExceeded {
		t.Errorf("%s: the context has %v, %v", when, ctx.Err(), context.Cause(ctx))
	}
}

func TestDeadline_MovedBeforeItPasses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		ctx := d.context()
		for _, left := range []time.Duration{time.Second, time.Minute, time.Second} {
			d.set(time.Now().Add(left))
			pass(left - 1)
			checkDeadline(t, "before it passes", ctx, false)
		}
		d.set(time.Time{})
		pass(time.Hour)
		checkDeadline(t, "without one", ctx, false)
		d.set(time.Now().Add(time.Second))
		pass(time.Second)
		checkDeadline(t, "afterwards", ctx, true)
	})
}

func TestDeadline_MovedAfterItPassed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		for _, at := range []time.Time{time.Now(), time.Unix(1, 0), time.Now().Add(-1)} {
			d.set(at)
			checkDeadline(t, "in the past", d.context(), true)
			old := d.context()
			d.set(time.Now().Add(time.Second))
			checkDeadline(t, "moved on", d.context(), false)
			checkDeadline(t, "moved on, to a goroutine that waits", old, true)
			pass(time.Second)
			checkDeadline(t, "again", d.context(), true)
		}
		d.set(time.Time{})
		checkDeadline(t, "removed", d.context(), false)
	})
}

// A timer may fire just before the deadline is moved, and run just after.
func TestDeadline_MovedWhileItsTimerFires(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		ctx := d.context()
		d.set(time.Now().Add(time.Minute))
		d.expire()
		checkDeadline(t, "moved to later", ctx, false)
		d.set(time.Time{})
		d.expire()
		checkDeadline(t, "removed", ctx, false)
		d.set(time.Now().Add(time.Minute))
		d.expire()
		pass(time.Minute)
		checkDeadline(t, "at its time", ctx, true)
	})
}

func TestDeadline_BoundsTheWaitForATurn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d deadline
		var held turn
		if _, err := d.take(&held); err != nil {
			t.Fatal(err)
		}
		waiting := background(func() error { _, err := d.take(&held); return err })
		synctest.Wait()
		d.set(time.Now().Add(time.Second))
		wantError(t, "a turn that is not given", <-waiting, os.ErrDeadlineExceeded)
		held.unlock()
		_, err := d.take(&held)
		wantError(t, "a free turn after the deadline", err, os.ErrDeadlineExceeded)
		d.set(time.Time{})
		if _, err := d.take(&held); err != nil {
			t.Error(err)
		}
	})
}
