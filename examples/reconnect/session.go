package main

import (
	"context"
	"errors"
	"log"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"example.com/websocket"
)

const (
	dialTimeout   = 15 * time.Second
	firstDelay    = 5 * time.Second  // the upper bound of the first delay
	maxDelay      = time.Minute      // the upper bound of all delays
	maxRetryAfter = 10 * time.Minute // the most that a server may ask for in addition
	stable        = time.Minute      // after a connection that lasted this long, the delays start over
)

// A session keeps one connection to a server open.
type session struct {
	dial    func(context.Context) (*websocket.Conn, error)
	receive func(websocket.Message)
}

// run connects and receives repeatedly until ctx is done or the server closes the connection normally. It returns an
// error if another try would have the same result.
func (s *session) run(ctx context.Context) error {
	for tries := 0; ; tries++ {
		began := time.Now()
		err := s.once(ctx)
		switch {
		case ctx.Err() != nil, websocket.CloseStatus(err) == websocket.StatusNormalClosure:
			return nil
		case isFinal(err):
			return err
		}
		if time.Since(began) >= stable {
			tries = 0
		}
		wait := delay(tries) + retryAfter(err)
		log.Printf("%v; trying again in %v", err, wait.Round(100*time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// once opens a connection, receives until it ends, and returns the reason. When ctx is done, it closes the
// connection with 1000.
func (s *session) once(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := s.dial(dialing)
	if err != nil {
		return err
	}
	defer c.Close(websocket.StatusNormalClosure, "") // returns at once if the connection has ended, otherwise within CloseTimeout
	for {
		typ, p, err := c.Read(ctx)
		if err != nil {
			return err
		}
		s.receive(websocket.Message{Type: typ, Data: p})
	}
}

// isFinal reports whether another try would have the same result: the handshake was refused with a 4xx status that does
// not ask the client to wait, or the server closed with 1008 or a code of its own.
func isFinal(err error) bool {
	var refused *websocket.HandshakeError
	if errors.As(err, &refused) {
		switch refused.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return refused.StatusCode/100 == 4
	}
	code := websocket.CloseStatus(err)
	return code == websocket.StatusPolicyViolation || code >= 4000
}

// delay returns a random time: up to 5 s before the first try, from 5 to 10 s before the second, from 10 to
// 20 s before the third, and from 30 to 60 s in the end. RFC 6455, section 7.2.3: "the first reconnect
// attempt SHOULD be delayed by a random amount of time", and those that follow "by increasingly longer
// amounts of time, using a method such as truncated binary exponential backoff".
func delay(tries int) time.Duration {
	if tries == 0 {
		return rand.N(firstDelay)
	}
	longest := min(maxDelay, firstDelay<<min(tries, 10))
	return longest/2 + rand.N(longest/2)
}

// retryAfter returns the time that the server asked for when it refused the handshake, in seconds or as a
// date (RFC 9110, section 10.2.3).
func retryAfter(err error) time.Duration {
	var refused *websocket.HandshakeError
	if !errors.As(err, &refused) {
		return 0
	}
	asked := refused.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(asked, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if date, err := http.ParseTime(asked); err == nil {
		return min(max(time.Until(date), 0), maxRetryAfter)
	}
	return 0
}
