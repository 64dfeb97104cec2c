// Package websocket implements the WebSocket protocol, RFC 6455, for servers and clients: with compression (RFC 7692),
// over HTTP/1.1 and HTTP/2 (RFC 8441), on the standard library alone.
//
// [Upgrade], [Handler] and [Dial] make a [Conn]; [Options] configures either end, and nil is a good choice to begin
// with. Messages are read by Messages, Read or Reader, and written by Write, Writer or Send. Close or CloseNow ends a
// connection. Every method may be called from any goroutine at any time.
//
// # Server
//
// A handler that echoes every message:
//
//	http.Handle("/echo", websocket.Handler(nil, func(c *websocket.Conn, r *http.Request) {
//		ctx := context.Background()
//		for m, err := range c.Messages(ctx) {
//			if err != nil || c.Write(ctx, m.Type, m.Data) != nil {
//				return
//			}
//		}
//	}))
//
// The function has a goroutine of its own, which has left net/http, and the connection is closed when it returns.
// Upgrade does the same in a handler of yours, which stays until the connection ends. A page of another host is
// refused unless Options.Origins names it.
//
// # Client
//
//	c, err := websocket.Dial(ctx, "wss://example.com/echo", nil)
//
// The context bounds the handshake. Proxies, TLS, cookies and redirects are those of Options.HTTPClient.
//
// # Reading
//
// Messages is a loop that ends with the connection: for m, err := range c.Messages(ctx). Read returns one message that
// is the caller's to keep. Reader returns one as a stream. A read whose context ends loses nothing: the next one goes on
// where it stood, in the middle of a frame too. A message of more than Options.MaxMessageSize, 1 MiB unless set, fails
// the connection. Text is checked for UTF-8 as it arrives.
//
// Pings are answered, and the peer's close frame is seen, only while a read is at work. Whoever only writes calls
// CloseRead.
//
// # Writing
//
// Write sends one message, and waits when the peer is slow. Writer sends one as a stream. Send queues one and never
// waits; with more than Options.MaxPending bytes waiting it returns [ErrBacklog]. Writers that meet share a system call,
// and answers to messages that came together leave together; there is no timer, and nothing to flush.
//
// # Closing
//
// Close sends a close frame and waits for the peer's, within Options.CloseTimeout; CloseNow does not. After that, and
// after any failure, every read and write returns the same error:
//
//   - the peer closed: a [*CloseError]
//   - the peer broke a rule, and was told so: a [*ProtocolError]
//   - we closed: [net.ErrClosed]
//   - the connection just ended: the network's error or [io.ErrUnexpectedEOF], wrapped
//
// All but net.ErrClosed match a [StatusCode]: errors.Is(err, websocket.StatusGoingAway); the last one matches
// StatusAbnormalClosure. The context of Conn.Context is done when the connection has ended, with that error as its
// cause. A peer that is silent for Options.KeepAlive is sent a ping, and given up when that is not answered either.
//
// # Many clients
//
// A [Group] is a set of connections, such as a chat room. Broadcast queues a [PreparedMessage], framed and compressed
// once, on each, and closes those that do not keep up. Shutdown closes all, for a server that goes away; call it from
// [http.Server.RegisterOnShutdown], for the http.Server no longer knows these connections.
//
// # Compression
//
// Options.Compression switches permessage-deflate on, where the peer agrees. By default each message is compressed for
// itself, and a connection holds no memory for it between messages. ContextTakeover makes small messages that resemble
// each other much shorter, and has a connection keep its windows, whose size WindowBits sets.
//
// # Security
//
// The defaults are meant for the open Internet: same-host origins, limits on a message, on what is pending and on a
// response's header, timeouts for writing, closing and silence. Memory follows the bytes that arrived, not those
// announced, and limits count what comes out of the decompressor. What the package does not do is to limit the number
// of connections or the rate of messages, or to authenticate: that is for the handler to do. What is secret should not be
// compressed beside text that an attacker chooses; see [Compression]. CheckOrigin, which can switch the check of the
// origin off, is worth a look in every review.
package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log"
	"net"
	"sync/atomic"
	"time"
)

// A MessageType says whether a message is text or binary.
type MessageType uint8

const (
	TextMessage   MessageType = 1 // UTF-8 text
	BinaryMessage MessageType = 2 // any bytes

	// Uncompressed is or-ed to the type of a message to send, and has it go out uncompressed: a secret that stands
	// beside text of an attacker's choice betrays itself by the length of what both compress to. It is never set on
	// what is read.
	Uncompressed MessageType = 0x80
)

// A Message is what [Conn.Messages] yields.
type Message struct {
	Type MessageType
	Data []byte // valid until the next iteration; in OnMessage until the function returns
}

// A Conn is one end of a WebSocket connection. Multiple goroutines may call methods on a Conn simultaneously.
//
// Reads take turns, and so do messages that are written; control frames go between the frames of a message. Bytes are
// read only during a call of Read, of the Read of a Reader, of Messages, ReadJSON or Close, or after CloseRead. At other
// times no ping is answered and no close frame is seen.
//
// A Conn ends by [Conn.Close] or [Conn.CloseNow], or by an error of a read or write; every later read and write returns
// the same error. Call CloseNow in any case, to free what the Conn holds.
//
// The connection beneath may be any net.Conn. Contexts and timeouts work by its deadlines: if SetReadDeadline or
// SetWriteDeadline returns an error, a context that ends a read or write closes the connection, and KeepAlive does
// nothing.
type Conn struct {
	nc     net.Conn
	sock   socket // reads and writes the descriptor of nc; nil if that cannot be done
	agreed terms  // what the handshake settled; never changes

	out   writer                // messages -> frames -> bytes
	in    reader                // bytes -> frames -> messages
	end   ending                // open -> closing -> closed
	pings atomic.Pointer[pings] // made with the first ping
}

// The terms of a connection are what the handshake and the Options settled.
type terms struct {
	server       bool
	hidden       bool // NetConn returns nil
	subprotocol  string
	deflate      *deflateParams // nil: permessage-deflate was not negotiated
	closeTimeout time.Duration
	writeTimeout time.Duration // not positive: none
	maxPending   int
	errorLog     *log.Logger // for a panic in the function of OnMessage; nil: the standard logger
}

// A config is what a new Conn starts with.
type config struct {
	terms
	held       bool          // nothing is sent until begin
	maxMessage int64         // of a received message; negative: no limit
	keepAlive  time.Duration // not positive: none
	early      []byte        // bytes that came with the handshake; copied
}

// newConn makes a Conn of nc, which has no deadlines set.
func newConn(nc net.Conn, cfg config) *Conn {
	c := &Conn{nc: nc, sock: newSocket(nc), agreed: cfg.terms}
	c.end.init(c)
	c.out.init(c, cfg.held)
	c.in.init(c, &cfg)
	return c
}

// failure returns the error of all reads and writes, or nil while the connection is open.
func (c *Conn) failure() error { return c.end.failure() }

// fail fails the connection; see ending.fail.
func (c *Conn) fail(err error) error { return c.end.fail(err) }

// begin sends what was queued on a connection that was made with config.held.
func (c *Conn) begin() { c.out.begin() }

// Messages returns an iterator over the messages that arrive, until the connection ends or ctx does. It ends without an
// error if the connection was closed with StatusNormalClosure, StatusGoingAway or without a code, or by our own Close or
// CloseNow. Otherwise the last pair is a zero Message and the error, so a loop must look at both variables.
//
// If ctx ends, nothing is lost, and reading may go on with another context. Breaking out of the loop leaves the
// connection usable.
//
// The Data of a message belongs to the Conn and is valid until the next iteration. Of all ways to read, Messages copies
// least.
func (c *Conn) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		var m Message
		var lent *buffer
		for {
			var err error
			if lent, err = c.in.next(ctx, lent, &m); err != nil {
				if !endsQuietly(err) {
					yield(Message{}, err)
				}
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// endsQuietly reports whether err is the end of a connection that was closed on purpose.
func endsQuietly(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		switch closed.Code {
		case StatusNormalClosure, StatusGoingAway, StatusNoStatusRcvd:
			return true
		}
	}
	return err == net.ErrClosed
}

// Read returns the next message. The slice is the caller's. A message longer than Options.MaxMessageSize fails the
// connection, and the error matches ErrMessageTooBig.
//
// If ctx ends first, Read returns ctx's error and the connection stays usable: the next Read resumes where this one
// stopped, even in the middle of a frame.
func (c *Conn) Read(ctx context.Context) (MessageType, []byte, error) {
	if err := c.in.lock(ctx); err != nil {
		return 0, nil, err
	}
	defer c.in.unlock()
	if c.in.atRest() {
		if _, err := c.in.fill(ctx, nil); err != nil {
			return 0, nil, err
		}
	}
	typ, err := c.in.start(ctx)
	if err != nil {
		return 0, nil, err
	}
	p, err := c.in.own(ctx)
	if err != nil {
		return 0, nil, err
	}
	return typ, p, nil
}

// ReadJSON decodes the next message, text or binary, into v. If the message is not valid JSON, ReadJSON returns the
// decoding error; the connection stays usable.
func (c *Conn) ReadJSON(ctx context.Context, v any) error {
	if err := c.in.lock(ctx); err != nil {
		return err
	}
	defer c.in.unlock()
	var m Message
	lent, err := c.in.lend(ctx, &m)
	if err != nil {
		return err
	}
	defer c.in.takeBack(lent)
	return json.Unmarshal(m.Data, v)
}

// Reader returns the next message as an io.Reader, whose Read returns bytes as they arrive and io.EOF at the end of the
// message. The limit of a message holds as for Read.
//
// The io.Reader belongs to ctx: when ctx ends, so do its reads. What is left of the message then, or when the caller
// does not read to the end, is skipped by the next read of the connection. Do not use the io.Reader after io.EOF.
func (c *Conn) Reader(ctx context.Context) (MessageType, io.Reader, error) {
	if err := c.in.lock(ctx); err != nil {
		return 0, nil, err
	}
	defer c.in.unlock()
	typ, err := c.in.start(ctx)
	if err != nil {
		return 0, nil, err
	}
	return typ, c.in.newStream(ctx), nil
}

// SetReadLimit replaces Options.MaxMessageSize, from the next message on: 0 is 1 MiB, a negative n is no limit. A server
// may raise the limit once a user has authenticated.
func (c *Conn) SetReadLimit(n int64) { c.in.setLimit(n) }

// Stats is a snapshot of what a connection has done. It counts frames of all kinds, but not the handshake. Written
// messages count when they are accepted, read messages when they arrive.
type Stats struct {
	MessagesRead, MessagesWritten uint64
	BytesRead, BytesWritten       uint64        // on the wire, frame headers included
	PayloadRead, PayloadWritten   uint64        // of messages, before compression
	Pending                       int           // bytes waiting to be sent
	RTT                           time.Duration // of the last ping, 0 if none
}

// Stats returns a snapshot.
func (c *Conn) Stats() Stats {
	var st Stats
	c.in.stats(&st)
	c.out.stats(&st)
	st.RTT = c.pings.Load().lastRTT()
	return st
}

// Subprotocol returns the subprotocol that the handshake chose, or "".
func (c *Conn) Subprotocol() string { return c.agreed.subprotocol }

// NetConn returns the connection beneath, usually a *net.TCPConn or *tls.Conn. Over HTTP/2 it returns nil, because
// many WebSockets share a connection. Reading from it, writing to it or setting its deadlines breaks the Conn.
func (c *Conn) NetConn() net.Conn {
	if c.agreed.hidden {
		return nil
	}
	return c.nc
}

// RemoteAddr returns the address of the peer, or of the nearest proxy.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// LocalAddr returns the local address.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }
