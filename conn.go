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
	"net"
	"sync"
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
	Data []byte // valid until the next iteration
}

// A Conn is one end of a WebSocket connection.
//
// Every method may be called from any goroutine at any time. Reads take turns, and so do messages being written;
// control frames go between the frames of a message. Bytes are read only while a read is at work: Read, a Reader's
// Read, Messages, ReadJSON, CloseRead or Close. With none at work no ping is answered and no close frame is seen.
//
// A Conn must be ended by [Conn.Close] or [Conn.CloseNow], or by the error of a read or write, which is the same
// ever after.
type Conn struct {
	// What every frame that is sent needs stands together: to a broadcast each Conn comes cold.
	out        sender
	try        tryWriter      // nil where nc cannot try a write
	deflate    *deflateParams // nil: messages are not compressed
	maxPending int
	more       atomic.Bool // a complete frame stands in the read buffer, behind the message being handled
	deferred   atomic.Bool // frames were queued for flushDeferred
	server     bool
	soft       bool // see isSoft
	vectored   bool // nc writes several buffers by one call
	hidden     bool

	draining  bool          // a close frame of ours is out: data is passed over; the holder of turn owns it
	frag      fragmentation // likewise, and what stands behind turn
	idle      uint8         // reads in a row that brought nothing, and no error
	cutNow    atomic.Bool   // CloseNow was called
	readSize  int32         // of the buffer to be taken when bytes come
	turn      turn          // held by the goroutine that reads
	in        frameReader
	msg       inMessage
	inflater  *decompressor
	live      liveness
	readWatch watch
	reader    *messageReader
	small     *[smallBuffer]byte // to wait with, where sock is nil
	counts    readCounts

	nc           net.Conn
	sock         socket // nil where nc has no descriptor to wait on
	subprotocol  string
	maxMessage   uint64
	closeTimeout time.Duration
	writeTimeout time.Duration
	comp         *compressor // owned by whoever has the socket for writing
	writeWatch   watch       // likewise

	verdict atomic.Pointer[verdict] // why the connection ended, or is ending
	mu      sync.Mutex              // guards what follows, for a few assignments; taken after out.mu, never before
	state   closeState
	called  bool // Close was
	isEnded bool
	hasLeft bool        // its groups, which is before Context is done
	isOver  bool        // nc is closed
	down    signal      // there is a verdict
	over    signal      // nc is closed
	cutter  *time.Timer // closes nc when the closing handshake takes too long
	pings   *pings
	life    *lifetime    // made by Context
	groups  []membership // that are left when the connection has ended
}

// A membership is something that a connection leaves when it ends.
type membership interface{ drop(*Conn) }

// A verdict is the error of all reads and writes to come.
type verdict struct{ err error }

// readCounts count what was read. Whoever holds the turn counts messages beside the others' view, for atomics are dear,
// and publishes them before he waits; Stats does so when nobody holds it.
type readCounts struct {
	messages, bytes, payload atomic.Uint64

	newMessages, newPayload uint64 // not published; owned by the holder of the turn
}

func (r *readCounts) publish() {
	if r.newMessages > 0 {
		r.messages.Add(r.newMessages)
		r.payload.Add(r.newPayload)
		r.newMessages, r.newPayload = 0, 0
	}
}

// A config is what a handshake settled.
type config struct {
	server       bool
	subprotocol  string
	deflate      *deflateParams // nil: permessage-deflate was not agreed on
	maxMessage   int64          // of a received message; negative: no limit
	keepAlive    time.Duration  // not above 0: none
	closeTimeout time.Duration
	writeTimeout time.Duration // not above 0: none
	maxPending   int
	early        []byte // bytes that came behind the handshake; copied
	hidden       bool   // NetConn returns nil
	held         bool   // nothing is sent until begin
}

// smallBuffer is enough for a control frame: what a connection without a descriptor holds while it waits.
const smallBuffer = 128

// newConn makes a Conn of nc, whose deadlines are cleared.
func newConn(nc net.Conn, cfg config) *Conn {
	c := &Conn{
		nc:           nc,
		sock:         newSocket(nc),
		server:       cfg.server,
		soft:         isSoft(nc),
		hidden:       cfg.hidden,
		subprotocol:  cfg.subprotocol,
		deflate:      cfg.deflate,
		maxMessage:   maxLength(cfg.maxMessage),
		maxPending:   cfg.maxPending,
		closeTimeout: cfg.closeTimeout,
		writeTimeout: cfg.writeTimeout,
	}
	c.out.busy = cfg.held
	if cfg.keepAlive > 0 {
		c.live.period = cfg.keepAlive
		nc.SetReadDeadline(time.Now().Add(cfg.keepAlive))
	}
	if c.sock != nil {
		c.try, c.vectored = c.sock, true
	} else {
		c.try, _ = nc.(tryWriter)
		c.small = new([smallBuffer]byte)
	}
	if len(cfg.early) > 0 {
		b := getBuffer(len(cfg.early))
		b.b = append(b.b, cfg.early...)
		c.in.adopt(b)
		c.counts.bytes.Add(uint64(len(cfg.early)))
	}
	return c
}

// maxLength returns the limit of a message; what has none still has to fit into memory.
func maxLength(n int64) uint64 {
	const most = uint64(^uint(0) >> 1)
	if n < 0 {
		return most
	}
	return min(uint64(n), most)
}

// failed reports whether the connection has ended, or is ending.
func (c *Conn) failed() bool { return c.verdict.Load() != nil }

// failure returns the error of all reads and writes to come, or nil.
func (c *Conn) failure() error {
	if v := c.verdict.Load(); v != nil {
		return v.err
	}
	return nil
}

// Messages returns the messages as they come, until the connection ends: quietly when it was closed with
// StatusNormalClosure, StatusGoingAway or without a code, or by our own Close or CloseNow; otherwise it yields the
// error once. The error of ctx is yielded too; nothing is lost by it, and reading may go on with another ctx.
// Breaking out of the loop leaves the connection usable.
//
// The Data of a message belongs to the Conn and is valid until the next iteration. Of all ways to read it is the one
// that copies least.
func (c *Conn) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		var m Message
		var lent *buffer
		for {
			var err error
			if lent, err = c.nextMessage(ctx, lent, &m); err != nil {
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

// endsQuietly reports whether err is an end that was meant.
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

// nextMessage takes back what was lent and returns the next message, with the buffer in which it stands. A goroutine
// that waits here for a message has not grown its stack: see fill.
func (c *Conn) nextMessage(ctx context.Context, lent *buffer, m *Message) (*buffer, error) {
	if err := c.takeTurn(ctx); err != nil {
		return nil, err
	}
	c.takeBack(lent)
	err := c.beginRead(ctx)
	if err == nil && c.atRest() {
		_, err = c.fill(ctx, nil)
	}
	if err == nil {
		lent, err = c.lendMessage(ctx, m)
	}
	c.turn.give()
	return lent, err
}

// atRest reports whether nothing of a message has arrived. Who reads then waits at once: each call between him and the wait
// would add to the stack that an idle connection holds.
func (c *Conn) atRest() bool { return !c.msg.open && len(c.in.buffered()) == 0 }

// takeBack ends the use of a buffer that stood behind a Message.
func (c *Conn) takeBack(lent *buffer) {
	if lent == nil {
		return
	}
	if lent == c.in.buf {
		c.in.lent = false
	} else {
		lent.free()
	}
}

// Read returns the next message, whole; the slice is the caller's. A message longer than Options.MaxMessageSize is
// an error that matches ErrMessageTooBig, and the connection has failed.
//
// When ctx ends first, Read returns its error, nothing is lost and the connection lives: the next read goes on where
// this one stood, be it in the middle of a frame.
func (c *Conn) Read(ctx context.Context) (MessageType, []byte, error) {
	if err := c.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer c.turn.give()
	if c.atRest() {
		if _, err := c.fill(ctx, nil); err != nil {
			return 0, nil, err
		}
	}
	typ, err := c.startMessage(ctx)
	if err != nil {
		return 0, nil, err
	}
	p, err := c.ownMessage(ctx)
	if err != nil {
		return 0, nil, err
	}
	return typ, p, nil
}

// ReadJSON decodes the next message, text or binary, into v. What is no JSON is an error, and the connection lives.
func (c *Conn) ReadJSON(ctx context.Context, v any) error {
	if err := c.lockRead(ctx); err != nil {
		return err
	}
	defer c.turn.give()
	var m Message
	lent, err := c.lendMessage(ctx, &m)
	if err != nil {
		return err
	}
	defer c.takeBack(lent)
	return json.Unmarshal(m.Data, v)
}

// Reader returns the next message as a stream, in which bytes can be read as they arrive; it ends with io.EOF. The
// limit of a message holds as for Read. The stream belongs to ctx: when ctx ends, so do its reads, and what is left
// of the message is skipped by the next read of the connection, as it is when the stream is not read to its end. It
// must not be used after io.EOF.
func (c *Conn) Reader(ctx context.Context) (MessageType, io.Reader, error) {
	if err := c.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer c.turn.give()
	typ, err := c.startMessage(ctx)
	if err != nil {
		return 0, nil, err
	}
	c.msg.streamed = true
	r := c.reader
	if r == nil || !r.ended {
		r = &messageReader{c: c}
		c.reader = r
	}
	r.ctx, r.number, r.ended = ctx, c.msg.number, false
	return typ, r, nil
}

// A messageReader is a message as a stream.
type messageReader struct {
	c      *Conn
	ctx    context.Context
	number uint64
	ended  bool // io.EOF was returned: it may serve another message
}

var errReaderOver = errors.New("websocket: the message of this Reader was skipped by a later read")

// Read reads the next bytes of the message.
func (r *messageReader) Read(p []byte) (int, error) {
	c := r.c
	if err := c.lockRead(r.ctx); err != nil {
		return 0, err
	}
	defer c.turn.give()
	switch {
	case r.number != c.msg.number:
		return 0, errReaderOver
	case !c.msg.open:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	n, err := c.readSome(r.ctx, p)
	r.ended = err == io.EOF
	return n, err
}

// lockRead waits for the read turn and begins a read.
func (c *Conn) lockRead(ctx context.Context) error {
	if err := c.takeTurn(ctx); err != nil {
		return err
	}
	if err := c.beginRead(ctx); err != nil {
		c.turn.give()
		return err
	}
	return nil
}

// takeTurn waits for the read turn.
func (c *Conn) takeTurn(ctx context.Context) error {
	if c.turn.try() || c.turn.take(ctx, c.failing()) {
		return nil
	}
	if err := c.failure(); err != nil {
		return err
	}
	return ctx.Err()
}

// beginRead prepares a read by the holder of the turn.
func (c *Conn) beginRead(ctx context.Context) error {
	if err := c.stopped(ctx); err != nil {
		return err
	}
	if !c.readWatch.is(ctx) {
		c.readWatch.set(ctx, c.interruptRead)
	}
	if c.in.lent {
		c.in.detach()
	}
	return nil
}

func (c *Conn) interruptRead() { c.nc.SetReadDeadline(past) }

// stopped returns why a read must not go on.
func (c *Conn) stopped(ctx context.Context) error {
	if c.draining {
		return nil
	}
	if err := c.failure(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}

func (c *Conn) setMore(more bool) {
	if c.more.Load() != more {
		c.more.Store(more)
	}
}

// Context returns a context that is done when the connection has ended; context.Cause tells why, with the error of
// the reads and writes. It carries no values.
func (c *Conn) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil {
		c.life = new(lifetime)
		c.life.ctx, c.life.cancel = context.WithCancelCause(context.Background())
		if c.hasLeft {
			c.life.cancel(c.failure())
		}
	}
	return c.life.ctx
}

// A lifetime is the context of a connection.
type lifetime struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Stats is a snapshot of what a connection has done. Frames of all kinds count, the handshake does not; what was
// written counts when it was accepted, what was read when it arrived.
type Stats struct {
	MessagesRead, MessagesWritten uint64
	BytesRead, BytesWritten       uint64        // on the wire, frame headers included
	PayloadRead, PayloadWritten   uint64        // of messages, before compression
	Pending                       int           // bytes waiting to be sent
	RTT                           time.Duration // of the last ping, 0 if none
}

// Stats returns a snapshot.
func (c *Conn) Stats() Stats {
	if c.turn.try() {
		c.counts.publish()
		c.turn.give()
	}
	st := Stats{
		MessagesRead: c.counts.messages.Load(),
		BytesRead:    c.counts.bytes.Load(),
		PayloadRead:  c.counts.payload.Load(),
	}
	c.out.mu.Lock()
	st.MessagesWritten, st.BytesWritten, st.PayloadWritten = c.out.messages, c.out.bytes, c.out.payload
	st.Pending = c.out.pending
	c.out.mu.Unlock()
	c.mu.Lock()
	if c.pings != nil {
		st.RTT = c.pings.rtt
	}
	c.mu.Unlock()
	return st
}

// Subprotocol returns the subprotocol that was agreed on, or "".
func (c *Conn) Subprotocol() string { return c.subprotocol }

// NetConn returns the connection beneath, a *net.TCPConn or *tls.Conn as a rule; nil over HTTP/2, where there is
// none of its own. Whoever reads or writes it, or sets its deadlines, breaks the Conn.
func (c *Conn) NetConn() net.Conn {
	if c.hidden {
		return nil
	}
	return c.nc
}

// RemoteAddr returns the address of the peer, or of the proxy nearest to us.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// LocalAddr returns our address.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }
