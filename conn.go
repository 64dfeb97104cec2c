// Package websocket implements the WebSocket protocol (RFC 6455) for servers and clients, with compression (RFC 7692),
// over HTTP/1.1 and HTTP/2 (RFC 8441). It depends only on the standard library.
//
// [Upgrade], [Handler], [Serve] and [Dial] make a [Conn]. [Options] configures either end; a nil *Options selects the
// defaults. Multiple goroutines may call the methods of a Conn simultaneously.
//
// # Server
//
// This handler echoes every message:
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
// The function runs on its own goroutine, and the connection is closed when it returns. In your own handler, call
// Upgrade instead. Serve needs no http.Server. By default, web pages from other hosts are refused; see Options.Origins.
//
// # Client
//
//	c, err := websocket.Dial(ctx, "wss://example.com/echo", nil)
//
// The context bounds the handshake. Proxies, TLS, cookies and redirects follow Options.HTTPClient. Under GOOS=js, Dial
// uses the browser's WebSocket; see [Dial].
//
// # Reading
//
// There are four ways to receive messages:
//
//   - [Conn.Messages] iterates over messages until the connection ends. It makes the fewest copies.
//   - [Conn.Read] returns one message, whose slice belongs to the caller. [Conn.ReadJSON] decodes one.
//   - [Conn.Reader] returns one message as a stream.
//   - [Conn.OnMessage] calls a function for each message. An idle connection then needs no goroutine.
//
// If the context of a read ends, nothing is lost: the next read resumes where this one stopped, even in the middle of a
// frame. A message longer than Options.MaxMessageSize, which is 1 MiB by default, fails the connection. Text that is
// not valid UTF-8 fails the connection as soon as an invalid byte arrives.
//
// A Conn answers pings and notices the peer's close frame only while one of these is reading. Call [Conn.CloseRead] on
// connections that are only written to. There are no handlers for pings, pongs and close frames: [Conn.Ping] waits for
// the pong, Options.KeepAlive detects dead peers, and the error of a read says how the peer closed.
//
// # Writing
//
// [Conn.Write] sends one message in one frame, and waits if the peer is slow. [Conn.Writer] sends one as a stream.
// [Conn.Send] queues one and never waits: if more than Options.MaxPending bytes would be waiting, it returns
// [ErrBacklog]. Messages written at the same time, and replies to messages that arrived together, share a system call.
// There is no timer and nothing to flush.
//
// # Closing
//
// [Conn.Close] sends a close frame and waits up to Options.CloseTimeout for the peer's. [Conn.CloseNow] does not wait.
// Once a connection has ended, every read and write returns the same error:
//
//   - a [*CloseError] if the peer closed the connection
//   - a [*ProtocolError] if this end failed the connection, usually because the peer broke a rule; the peer was sent
//     its code
//   - [net.ErrClosed] if this end closed the connection
//   - otherwise the network's error or [io.ErrUnexpectedEOF], wrapped: the connection was lost
//
// [CloseStatus] returns the status code of such an error, for use in a switch. A lost connection has
// StatusAbnormalClosure, though its error is not a *CloseError. errors.Is(err, websocket.StatusGoingAway) tests for one
// code.
//
// The context that [Conn.Context] returns is done when the connection has ended, with the same error as its cause. A
// peer that stays silent for Options.KeepAlive is sent a ping. If it stays silent for as long again, the connection
// fails.
//
// # Many connections
//
// A [Group] is a set of connections, such as a chat room. [Group.Broadcast] queues a [PreparedMessage] on each of them
// and closes connections that are too slow. [Group.Shutdown] closes all of them. An http.Server does not track upgraded
// connections, so call Shutdown from [http.Server.RegisterOnShutdown].
//
// # Compression
//
// Options.Compression enables permessage-deflate. By default each message is compressed separately, and a connection
// holds no memory for compression between messages. With ContextTakeover, similar small messages compress much better,
// but the connection keeps its compression windows. WindowBits limits their size.
//
// # Security
//
// The defaults are meant for the open Internet. Web pages must come from the same host. There are limits on the size of
// a message after decompression, on pending bytes and on the header of a response, and timeouts for writing, closing
// and silence. Memory use grows with the bytes received, not with the lengths that a peer announces.
//
// The package does not authenticate users, and does not limit the number of connections or the rate of messages. Do
// that in the handler. Do not compress a secret together with text that an attacker chooses; see [Compression]. Review
// every use of CheckOrigin, which can disable the origin check.
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

	// Uncompressed is a flag that sends a message without compression, as in TextMessage|Uncompressed. Use it for
	// secrets; see [Compression]. It is never set in the type of a received message.
	Uncompressed MessageType = 0x80
)

// A Message is a message that [Conn.Messages] yields or [Conn.OnMessage] delivers.
type Message struct {
	Type MessageType
	Data []byte // valid until the next iteration or, in OnMessage, until the function returns
}

// A Conn is one end of a WebSocket connection. Multiple goroutines may call methods on a Conn simultaneously.
//
// Concurrent reads take turns, and so do concurrent writes. Control frames are sent between the frames of a message. A
// Conn reads from the network only while Messages, Read, ReadJSON, Reader, the Read of a Reader or Close is running,
// after CloseRead, and while OnMessage is set. At other times it does not answer pings or notice a close frame.
//
// A Conn ends when [Conn.Close] or [Conn.CloseNow] is called or when it fails. Every later read and write returns the
// same error. Always call Close or CloseNow when done with a Conn, to release its resources.
//
// The underlying connection may be any net.Conn. Contexts and timeouts use its deadlines. If SetReadDeadline or
// SetWriteDeadline returns an error, a context that ends during a read or write closes the connection, and KeepAlive
// has no effect.
type Conn struct {
	// The holder of in.turn reads from nc, the owner of the socket (out.busy) writes, and the goroutine that enters
	// stateCutting closes it. Any goroutine may set a deadline to the past, which interrupts a wait. The field does not
	// change.
	nc     net.Conn
	sock   socket // reads and writes the descriptor of nc; nil if only the methods of nc may be used
	agreed terms  // what the handshake determined; never changes

	// Each of these four owns its fields; other code calls its methods. layers_test.go lists the permitted calls. The
	// hot fields of out come first, because a broadcast finds no Conn in the CPU's caches.
	out   writer                // messages -> frames -> bytes
	in    reader                // bytes -> frames -> messages
	end   ending                // open -> closing -> closed
	pings atomic.Pointer[pings] // allocated for the first ping
}

// The terms of a connection follow from the handshake and the Options. They do not change.
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

// A config holds the initial settings of a Conn.
type config struct {
	terms
	held       bool          // nothing is sent until begin
	maxMessage int64         // of a received message; negative: no limit
	keepAlive  time.Duration // not positive: none
	early      []byte        // bytes that came with the handshake; copied
}

// newConn returns a Conn for nc, which must have no write deadline. newConn sets the read deadline.
func newConn(nc net.Conn, cfg config) *Conn { return newConnOf(nc, &cfg) }

// newConnOf is newConn without a copy of the config on the stack.
func newConnOf(nc net.Conn, cfg *config) *Conn {
	c := &Conn{nc: nc, sock: newSocket(nc), agreed: cfg.terms}
	c.end.init(c)
	c.out.init(c, cfg.held)
	c.in.init(c, cfg)
	return c
}

// begin sends what was queued on a connection that was made with config.held.
func (c *Conn) begin() { c.out.begin() }

// Messages returns an iterator over the messages that arrive, until the connection ends or ctx does. It ends without an
// error if the peer closed the connection with StatusNormalClosure, StatusGoingAway or no code, or if this end called
// Close or CloseNow. Otherwise the last pair is a zero Message and the error, so a loop must check both variables.
//
// If ctx ends, nothing is lost, and the caller may continue to read with another context. Breaking out of the loop
// leaves the connection usable.
//
// The Data of a message belongs to the Conn and is valid until the next iteration. Messages makes fewer copies than any
// other read method.
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

// endsQuietly reports whether err means that the connection was closed on purpose.
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

// Read returns the next message. The slice belongs to the caller. A message longer than Options.MaxMessageSize fails
// the connection, and the error matches ErrMessageTooBig.
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

// Reader waits for the next message to begin and returns it as an io.Reader, whose Read returns bytes as they arrive
// and io.EOF at the end of the message. The limit on the size of a message applies as for Read.
//
// When ctx ends, reads from the io.Reader return its error. If a message is not read to its end, the next read of the
// connection skips the rest. Do not use the io.Reader after io.EOF.
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

// SetReadLimit replaces Options.MaxMessageSize, beginning with the next message. Zero means 1 MiB, and a negative n
// means no limit. A server may raise the limit once a user has authenticated.
func (c *Conn) SetReadLimit(n int64) { c.in.setLimit(n) }

// Stats holds the counters of a connection. The bytes include control frames, but not the handshake. Written messages
// count when they are accepted, received messages when they have arrived.
type Stats struct {
	MessagesRead, MessagesWritten uint64
	BytesRead, BytesWritten       uint64        // on the wire, frame headers included
	PayloadRead, PayloadWritten   uint64        // of messages, before compression
	Pending                       int           // bytes waiting to be sent
	RTT                           time.Duration // round-trip time of the last ping that was answered; 0 if none was
}

// Stats returns the current counters of the connection.
func (c *Conn) Stats() Stats {
	var st Stats
	c.in.stats(&st)
	c.out.stats(&st)
	st.RTT = c.pings.Load().lastRTT()
	return st
}

// Subprotocol returns the subprotocol that the handshake chose, or "".
func (c *Conn) Subprotocol() string { return c.agreed.subprotocol }

// NetConn returns the underlying connection, usually a *net.TCPConn or *tls.Conn. Over HTTP/2 it returns nil, because
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
