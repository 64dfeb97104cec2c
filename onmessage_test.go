package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A delivered is one call of the function of OnMessage.
type delivered struct {
	data string
	err  error
}

// deliveries returns a function for OnMessage, and the channel that gets its calls.
func deliveries() (func(Message, error), chan delivered) {
	calls := make(chan delivered, 1000)
	return func(m Message, err error) { calls <- delivered{string(m.Data), err} }, calls
}

// deliveryBubble runs f with the two ends of a pipe, without and with compression.
func deliveryBubble(t *testing.T, f func(t *testing.T, s, c *Conn)) {
	t.Helper()
	for name, opts := range map[string]*Options{"Plain": {}, "Compressed": {Compression: &Compression{Threshold: -1, ContextTakeover: true}}} {
		inBubbleIn(t, name, func(t *testing.T) {
			s, c := Pipe(opts, opts)
			defer s.CloseNow()
			defer c.CloseNow()
			f(t, s, c)
		})
	}
}

func wantCall(t *testing.T, calls <-chan delivered, data string) {
	t.Helper()
	if got := <-calls; got != (delivered{data, nil}) {
		t.Fatalf("the function got %.40q, %v, want %.40q", got.data, got.err, data)
	}
}

// wantLast wants a call with an error that matches target, and none after it.
func wantLast(t *testing.T, calls <-chan delivered, targets ...error) {
	t.Helper()
	last := <-calls
	wantError(t, "the last call", last.err, targets...)
	wantEqual(t, "the message of the last call", last.data, "")
	synctest.Wait()
	select {
	case got := <-calls:
		t.Errorf("after the last call the function got %.40q, %v", got.data, got.err)
	default:
	}
}

func TestOnMessage_DeliversInOrder_ThenTheError(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		f, calls := deliveries()
		s.OnMessage(f)
		var want []string
		for i := range 300 {
			p := strings.Repeat(fmt.Sprint(i, " "), i*i%700)
			want = append(want, p)
			must(t, c.Write(t.Context(), TextMessage, []byte(p)))
		}
		for _, p := range want {
			wantCall(t, calls, p)
		}
		go c.Close(StatusGoingAway, "bye")
		wantLast(t, calls, StatusGoingAway)
		if err := context.Cause(s.Context()); !errors.Is(err, StatusGoingAway) {
			t.Error(err)
		}
	})
}

func TestOnMessage_AnswersPingsAndKeepsAlive(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true, keepAlive)
		f, calls := deliveries()
		c.OnMessage(f)
		p.send("89 02 61 62")
		p.expect("8a 02 61 62")
		pass(30 * time.Second)
		p.expectPing()
		wantLast(t, calls, StatusAbnormalClosure)
	})
}

func TestOnMessage_ReplacedAndEnded(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		first, firstCalls := deliveries()
		second, secondCalls := deliveries()
		s.OnMessage(nil) // does nothing
		s.OnMessage(first)
		c.Send(TextMessage, []byte("1"))
		wantCall(t, firstCalls, "1")
		synctest.Wait()
		s.OnMessage(second)
		c.Send(TextMessage, []byte("2"))
		wantCall(t, secondCalls, "2")
		synctest.Wait()
		s.OnMessage(nil)
		c.Send(TextMessage, []byte("3"))
		wantRead(t, s, TextMessage, "3")
		s.OnMessage(first)
		c.Send(TextMessage, []byte("4"))
		wantCall(t, firstCalls, "4")
		synctest.Wait()
		c.CloseNow()
		wantLast(t, firstCalls, StatusAbnormalClosure)
		s.OnMessage(second)
		wantLast(t, secondCalls, StatusAbnormalClosure)
	})
}

// The end of a delivery in the middle of a message loses nothing of it.
func TestOnMessage_EndedInTheMiddleOfAMessage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, p := connectRaw(t, true)
		f, calls := deliveries()
		c.OnMessage(f)
		whole := asClient(wireHex("81 05 68 65 6c 6c 6f"))
		p.nc.Write(whole[:8])
		synctest.Wait()
		c.OnMessage(nil)
		synctest.Wait()
		p.nc.Write(whole[8:])
		wantRead(t, c, TextMessage, "hello")
		if len(calls) != 0 {
			t.Errorf("the function was called: %v", <-calls)
		}
	})
}

func TestOnMessage_RefusesOtherReads(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		waiting := make(chan error, 3)
		for range 3 {
			go func() { _, _, err := s.Read(t.Context()); waiting <- err }()
		}
		synctest.Wait()
		f, calls := deliveries()
		s.OnMessage(f)
		for range 3 {
			wantError(t, "a Read that waited", <-waiting, errDelivered)
		}
		_, _, err := s.Read(t.Context())
		wantError(t, "Read", err, errDelivered)
		_, _, err = s.Reader(t.Context())
		wantError(t, "Reader", err, errDelivered)
		wantError(t, "ReadJSON", s.ReadJSON(t.Context(), new(any)), errDelivered)
		for _, err := range s.Messages(t.Context()) {
			wantError(t, "Messages", err, errDelivered)
		}
		_, err = s.Stream(BinaryMessage).Read(make([]byte, 1))
		wantError(t, "Stream.Read", err, errDelivered)
		ctx := s.CloseRead(t.Context())
		wantError(t, "CloseRead", context.Cause(ctx), errDelivered)
		c.Send(BinaryMessage, []byte("a"))
		wantCall(t, calls, "a")
	})
}

// While the function runs it may read what follows, such as the answer of a login, and its own message stays valid.
func TestOnMessage_ReadsInsideTheFunction(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		calls := make(chan []string, 10)
		s.OnMessage(func(m Message, err error) {
			if err != nil {
				return
			}
			got := []string{""}
			_, p, err := s.Read(t.Context())
			got = append(got, string(p), fmt.Sprint(err))
			_, r, err := s.Reader(t.Context())
			if err == nil {
				p, err = io.ReadAll(r)
			}
			got = append(got, string(p), fmt.Sprint(err))
			var v int
			err = s.ReadJSON(t.Context(), &v)
			got = append(got, fmt.Sprint(v), fmt.Sprint(err))
			for _, err := range s.Messages(t.Context()) {
				got = append(got, fmt.Sprint(err))
			}
			got[0] = string(m.Data)
			calls <- got
		})
		want := []string{"first", "second", "<nil>", "third", "<nil>", "4", "<nil>", errDelivered.Error()}
		for range 3 {
			for _, p := range []string{"first", "second", "third", "4"} {
				c.Send(TextMessage, []byte(p))
			}
			if got := <-calls; !slices.Equal(got, want) {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	})
}

// A read that another goroutine began while the function ran ends when the function returns.
func TestOnMessage_EndsReadsWhenTheFunctionReturns(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		read := make(chan error, 1)
		calls := make(chan string, 10)
		s.OnMessage(func(m Message, err error) {
			if string(m.Data) == "1" {
				go func() { _, _, err := s.Read(t.Context()); read <- err }()
				synctest.Wait()
			}
			calls <- string(m.Data)
		})
		c.Send(TextMessage, []byte("1"))
		<-calls
		wantError(t, "Read", <-read, errDelivered)
		c.Send(TextMessage, []byte("2"))
		wantEqual(t, "the message", <-calls, "2")
	})
}

func TestOnMessage_EndsByOurOwnHand(t *testing.T) {
	for name, end := range map[string]func(*Conn) error{
		"Close":    func(s *Conn) error { return s.Close(StatusNormalClosure, "") },
		"CloseNow": (*Conn).CloseNow,
	} {
		for _, inside := range []bool{false, true} {
			t.Run(fmt.Sprint(name, inside), func(t *testing.T) {
				deliveryBubble(t, func(t *testing.T, s, c *Conn) {
					go c.Read(t.Context())
					f, calls := deliveries()
					s.OnMessage(func(m Message, err error) {
						if inside && err == nil {
							end(s)
						}
						f(m, err)
					})
					if inside {
						c.Send(BinaryMessage, []byte("x"))
						wantCall(t, calls, "x")
					} else {
						end(s)
					}
					wantLast(t, calls, net.ErrClosed)
				})
			})
		}
	}
}

func TestOnMessage_AfterTheEnd(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		s.CloseNow()
		f, calls := deliveries()
		s.OnMessage(f)
		wantLast(t, calls, net.ErrClosed)
	})
}

// A function that does not return fails the connection, and is not called again. If it has set another, that gets the
// error.
func TestOnMessage_FunctionThatDoesNotReturn(t *testing.T) {
	for name, leave := range map[string]func(){"Panic": func() { panic("oops") }, "Goexit": runtime.Goexit} {
		for _, replaced := range []bool{false, true} {
			inBubbleIn(t, fmt.Sprint(name, "Replaced", replaced), func(t *testing.T) {
				opts, log := logged(Options{})
				s, c := Pipe(opts, nil)
				defer s.CloseNow()
				f, replacement := deliveries()
				calls := 0
				s.OnMessage(func(Message, error) {
					if calls++; replaced {
						s.OnMessage(f)
					}
					leave()
				})
				c.Send(TextMessage, nil)
				wantError(t, "the peer's Read", readOne(t.Context(), c).err, StatusInternalError)
				<-s.Context().Done()
				if replaced {
					wantLast(t, replacement, StatusInternalError)
				}
				synctest.Wait()
				wantEqual(t, "calls", calls, 1)
				if got := log.String(); strings.Contains(got, "oops") != (name == "Panic") {
					t.Errorf("logged: %q", got)
				}
			})
		}
	}
}

// However often the function is replaced, the connection lives.
func TestOnMessage_ReplacedManyTimes(t *testing.T) {
	deliveryBubble(t, func(t *testing.T, s, c *Conn) {
		f, calls := deliveries()
		for range 3 * maxIdle {
			s.OnMessage(f)
			synctest.Wait()
		}
		c.Send(TextMessage, []byte("a"))
		wantCall(t, calls, "a")
		ended := background(func() error { return s.Close(StatusNormalClosure, "") })
		for range 3 * maxIdle {
			synctest.Wait()
			s.OnMessage(f)
		}
		go c.Read(t.Context())
		wantOK(t, "Close", <-ended)
	})
}

// A connection stays open after a serve function that called OnMessage, and is closed after one that ended it again.
func TestServe_ReturnsAfterOnMessage(t *testing.T) {
	for name, stays := range map[string]bool{"Set": true, "Ended": false} {
		inBubbleIn(t, name, func(t *testing.T) {
			l, _ := serveInBubble(nil, func(c *Conn, r *http.Request) {
				c.OnMessage(func(m Message, err error) {
					if err == nil {
						c.Send(m.Type, m.Data)
					}
				})
				if !stays {
					c.OnMessage(nil)
				}
			})
			defer l.Close()
			c := dialed(t, "ws://example.com/", &Options{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: l.dial}}})
			synctest.Wait()
			if !stays {
				_, _, err := c.Read(t.Context())
				wantError(t, "Read", err, StatusNormalClosure)
				return
			}
			c.Send(TextMessage, []byte("a"))
			wantRead(t, c, TextMessage, "a")
		})
	}
}
