package websocket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
)

// Stream returns a net.Conn that carries bytes over the connection. Each Write sends one message of the given type.
// Read returns the bytes of the messages that arrive, in order and without regard to where one message ends and the
// next begins; empty messages are skipped. A message of the other type fails the connection with StatusUnsupportedData.
//
// Read returns io.EOF when Messages would end without an error. Close closes the connection with StatusNormalClosure,
// as [Conn.Close] does.
//
// A deadline may be moved after it has passed, and reading and writing can then continue: a Read that timed out has
// lost nothing, and a Write that timed out has sent nothing. A Write returns nil once its message is certain to be sent
// as a whole, even if the deadline passes before the peer has accepted all of it.
//
// Multiple goroutines may call the methods simultaneously. While [Conn.OnMessage] is set, Read returns an error.
func (c *Conn) Stream(typ MessageType) net.Conn {
	return &netConn{c: c, typ: typ, deadlines: deadlines{new(deadline), new(deadline)}}
}

// A netConn is the net.Conn that Stream returns. Its deadlines become contexts of calls of the Conn, so a deadline that
// passes leaves the connection usable. The deadlines of the underlying connection belong to the Conn.
type netConn struct {
	deadlines
	c   *Conn
	typ MessageType

	reading turn           // held during a Read; guards message
	message *messageReader // the message being read; nil between messages
}

// Read waits for its turn, and reads the bytes that are available.
func (s *netConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // as for a TCP connection, without waiting
	}
	ctx := s.ofRead.context()
	if !s.reading.lock(ctx, nil) {
		return 0, os.ErrDeadlineExceeded
	}
	defer s.reading.unlock()
	n, err := s.read(ctx, p)
	if err != nil && endsQuietly(err) {
		err = io.EOF
	}
	return n, netError(ctx, err)
}

// read reads from the current message, or from the next one that is not empty.
func (s *netConn) read(ctx context.Context, p []byte) (int, error) {
	for {
		if err := s.c.in.refuses(ctx); err != nil {
			return 0, err
		}
		if s.message == nil {
			if err := s.next(ctx); err != nil {
				return 0, err
			}
		}
		s.message.resume(ctx) // the deadline may have been moved since the message began
		n, err := s.message.Read(p)
		if err != io.EOF && err != errReaderSkipped {
			return n, err
		}
		s.message = nil // it has ended, or another read of the Conn has skipped the rest
	}
}

// next waits for the next message.
func (s *netConn) next(ctx context.Context) error {
	typ, r, err := s.c.Reader(ctx)
	if err != nil {
		return err
	}
	// Section 7.4.1: 1003 says that an endpoint "has received a type of data it cannot accept".
	if typ != s.typ&^Uncompressed {
		return s.c.end.fail(&ProtocolError{StatusUnsupportedData, "the type of the message is not that of the Stream"})
	}
	s.message = r.(*messageReader)
	return nil
}

// Write sends p as one message. The frame is kept: it goes out even if the deadline passes after its turn has come.
func (s *netConn) Write(p []byte) (int, error) {
	ctx := s.ofWrite.context()
	f := outFrame{kept: true}
	err := s.c.dataFrame(&f, s.typ, p)
	if err == nil {
		err = s.c.out.submit(ctx, &f)
	}
	if err != nil {
		return 0, netError(ctx, err)
	}
	return len(p), nil
}

// netError returns os.ErrDeadlineExceeded, as a net.Conn does, if err means that ctx has ended, and otherwise err.
func netError(ctx context.Context, err error) error {
	if _, lost := err.(*lostError); lost { // perhaps because the context of another call has ended
		return err
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return os.ErrDeadlineExceeded
	}
	return err
}

func (s *netConn) Close() error         { return s.c.Close(StatusNormalClosure, "") }
func (s *netConn) LocalAddr() net.Addr  { return s.c.LocalAddr() }
func (s *netConn) RemoteAddr() net.Addr { return s.c.RemoteAddr() }
