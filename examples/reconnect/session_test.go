package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"example.com/websocket"
)

// A server in memory performs one step for each dial, and repeats the last one.
type server struct {
	steps []step
	dials []time.Time
}

// A step refuses the dial, or serves the connection.
type step struct {
	refuse error
	serve  func(c *websocket.Conn)
}

func (s *server) dial(ctx context.Context) (*websocket.Conn, error) {
	s.dials = append(s.dials, time.Now())
	next := s.steps[min(len(s.dials), len(s.steps))-1]
	if next.refuse != nil {
		return nil, next.refuse
	}
	server, client := websocket.Pipe(nil, nil)
	go next.serve(server)
	return client, nil
}

// run runs a session against the server for at most the given time.
func (s *server) run(t *testing.T, limit time.Duration) (received []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	client := &session{dial: s.dial, receive: func(m websocket.Message) { received = append(received, string(m.Data)) }}
	err = client.run(ctx)
	return received, err
}

// waits returns the times between the dials.
func (s *server) waits() []time.Duration {
	var list []time.Duration
	for i := range s.dials[1:] {
		list = append(list, s.dials[i+1].Sub(s.dials[i]))
	}
	return list
}

func status(code int, header http.Header) error {
	return &websocket.HandshakeError{Reason: "refused", StatusCode: code, Header: header}
}

func lose(c *websocket.Conn) { c.CloseNow() }

func closing(code websocket.StatusCode) func(*websocket.Conn) {
	return func(c *websocket.Conn) { c.Close(code, "") }
}

func TestSession_ReceivesFromEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		say := func(text string, end func(*websocket.Conn)) step {
			return step{serve: func(c *websocket.Conn) {
				c.Write(context.Background(), websocket.TextMessage, []byte(text))
				time.Sleep(time.Second)
				end(c)
			}}
		}
		s := &server{steps: []step{
			say("one", lose),
			say("two", closing(websocket.StatusGoingAway)),
			{refuse: status(http.StatusServiceUnavailable, nil)},
			{refuse: errors.New("connection refused")},
			say("three", closing(websocket.StatusNormalClosure)),
		}}
		received, err := s.run(t, time.Hour)
		if err != nil || len(received) != 3 || received[2] != "three" {
			t.Errorf("received %q, %v", received, err)
		}
		if len(s.dials) != 5 {
			t.Errorf("%d dials, want 5: the last connection was closed with 1000", len(s.dials))
		}
	})
}

// The bounds are those of RFC 6455, section 7.2.3, doubled up to a minute.
func TestSession_WaitsLonger_AfterEachFailure(t *testing.T) {
	const s = time.Second
	bounds := [][2]time.Duration{{0, 5 * s}, {5 * s, 10 * s}, {10 * s, 20 * s}, {20 * s, 40 * s}, {30 * s, 60 * s}}
	first := make(map[time.Duration]bool)
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			down := &server{steps: []step{{refuse: errors.New("connection refused")}}}
			began := time.Now()
			if _, err := down.run(t, time.Hour); err != nil {
				t.Errorf("run: %v after the end of its ctx", err)
			}
			if took := time.Since(began); took != time.Hour {
				t.Errorf("run returned after %v, want it to end with its ctx, in the middle of a wait", took)
			}
			if down.dials[0] != began {
				t.Error("the first connection was delayed")
			}
			for i, wait := range down.waits() {
				if b := bounds[min(i, len(bounds)-1)]; wait < b[0] || wait >= b[1] {
					t.Errorf("wait %d is %v, want from %v to %v", i+1, wait, b[0], b[1])
				}
			}
			if n := len(down.dials); n < 60 || n > 124 {
				t.Errorf("%d dials in an hour", n)
			}
			first[down.waits()[0]] = true
		})
	}
	if len(first) < 2 {
		t.Error("the first delay is not random: all clients of a server would come back at once")
	}
}

func TestSession_StartsWithShortDelays_AfterAStableConnection(t *testing.T) {
	for lasts, longest := range map[time.Duration]time.Duration{stable: 5 * time.Second, time.Second: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{steps: []step{{serve: func(c *websocket.Conn) {
				ctx, cancel := context.WithTimeout(c.CloseRead(context.Background()), lasts)
				defer cancel()
				<-ctx.Done()
				c.CloseNow()
			}}}}
			s.run(t, time.Hour)
			var got time.Duration
			for _, wait := range s.waits() {
				got = max(got, wait-lasts)
			}
			if got >= longest || got < longest/2 {
				t.Errorf("connections of %v: the longest delay is %v, want below %v", lasts, got, longest)
			}
		})
	}
}

func TestSession_ObeysRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"30": 30 * time.Second, "0": 0, "999999999": maxRetryAfter, "99999999999999999999": 0, "-5": 0, "soon": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{steps: []step{
				{refuse: status(http.StatusServiceUnavailable, http.Header{"Retry-After": {value}})},
				{serve: closing(websocket.StatusNormalClosure)},
			}}
			if _, err := s.run(t, time.Hour); err != nil {
				t.Error(err)
			}
			if got := s.waits()[0]; got < want || got >= want+firstDelay {
				t.Errorf("Retry-After %q: waited %v, want %v and up to %v", value, got, want, firstDelay)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
		err := status(http.StatusTooManyRequests, http.Header{"Retry-After": {date}})
		if got := retryAfter(err); got <= 89*time.Second || got > 90*time.Second {
			t.Errorf("Retry-After %q: %v", date, got)
		}
	})
}

func TestSession_Ends_WhenTheServerRefusesForGood(t *testing.T) {
	for name, c := range map[string]struct {
		step  step
		final bool
	}{
		"400":              {step{refuse: status(400, nil)}, true},
		"401":              {step{refuse: status(401, nil)}, true},
		"403":              {step{refuse: status(403, nil)}, true},
		"404":              {step{refuse: status(404, nil)}, true},
		"408":              {step{refuse: status(408, nil)}, false},
		"429":              {step{refuse: status(429, nil)}, false},
		"500":              {step{refuse: status(500, nil)}, false},
		"503":              {step{refuse: status(503, nil)}, false},
		"no response":      {step{refuse: &websocket.HandshakeError{Reason: "no route"}}, false},
		"policy violation": {step{serve: closing(websocket.StatusPolicyViolation)}, true},
		"own code":         {step{serve: closing(4001)}, true},
		"try again later":  {step{serve: closing(websocket.StatusTryAgainLater)}, false},
		"internal error":   {step{serve: closing(websocket.StatusInternalError)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{steps: []step{c.step}}
				_, err := s.run(t, time.Hour)
				if c.final != (err != nil) || c.final != (len(s.dials) == 1) {
					t.Errorf("run: %v after %d dials, final: %t", err, len(s.dials), c.final)
				}
			})
		})
	}
}

func TestSession_ClosesNormally_WhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan error, 1)
		s := &server{steps: []step{{serve: func(c *websocket.Conn) {
			_, _, err := c.Read(context.Background())
			closed <- err
		}}}}
		if _, err := s.run(t, time.Minute); err != nil {
			t.Errorf("run: %v", err)
		}
		if err := <-closed; !errors.Is(err, websocket.StatusNormalClosure) {
			t.Errorf("the server saw %v, want 1000", err)
		}
	})
}

func TestSession_GivesUpADial_ThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hangs := &session{dial: func(ctx context.Context) (*websocket.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		if err := hangs.once(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != dialTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// The header and the status of a real server reach the session.
func TestSession_ReadsTheRefusal_OfDial(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	defer srv.Close()
	_, err := websocket.Dial(t.Context(), srv.URL, nil)
	if !isFinal(err) || retryAfter(err) != 7*time.Second {
		t.Errorf("%v: final %t, retry after %v", err, isFinal(err), retryAfter(err))
	}
}
