package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
)

func TestCloseStatus(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want StatusCode
	}{
		{"nil", nil, 0},
		{"close frame", &CloseError{Code: 4001, Reason: "bye"}, 4001},
		{"close frame without a code", &CloseError{Code: StatusNoStatusRcvd}, 1005},
		{"broken protocol", &ProtocolError{Code: StatusMessageTooBig}, 1009},
		{"lost connection", &lostError{"reading", io.ErrUnexpectedEOF}, 1006},
		{"a code itself", StatusGoingAway, 1001},
		{"an error with two causes", errors.Join(ErrBacklog, StatusTryAgainLater), 1013},
		{"our own close", net.ErrClosed, 0},
		{"context", context.Canceled, 0},
		{"backlog", ErrBacklog, 0},
		{"end of a Stream", io.EOF, 0},
		{"another", errors.New("oh no"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CloseStatus(tt.err); got != tt.want {
				t.Errorf("CloseStatus(%v) is %d, want %d", tt.err, got, tt.want)
			}
			if tt.err == nil {
				return
			}
			if got := CloseStatus(fmt.Errorf("room 7: %w", errors.Join(io.EOF, tt.err))); got != tt.want {
				t.Errorf("CloseStatus of %v, wrapped, is %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}

// The errors of a connection have the codes that its peer saw.
func TestCloseStatus_OfAConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(near, far *Conn)
		want StatusCode
	}{
		{"the peer closed", func(near, far *Conn) { go far.Close(4001, "bye") }, 4001},
		{"the peer vanished", func(near, far *Conn) { far.CloseNow() }, 1006},
		{"we closed", func(near, far *Conn) { near.CloseNow() }, 0},
		{"the message is too big", func(near, far *Conn) { far.Write(context.Background(), BinaryMessage, make([]byte, 2000)) }, 1009},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := Pipe(&Options{MaxMessageSize: 1000}, nil)
			defer near.CloseNow()
			defer far.CloseNow()
			tt.end(near, far)
			_, _, err := near.Read(testContext(t))
			if got := CloseStatus(err); got != tt.want {
				t.Errorf("CloseStatus(%v) is %d, want %d", err, got, tt.want)
			}
		})
	}
}
