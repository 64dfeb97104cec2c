package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
)

// gobwas/ws is a toolkit rather than a connection: this file is the read and write loop that its user writes by hand.
var gobwasLib = library{
	name:      "gobwas",
	module:    "github.com/gobwas/ws",
	style:     "raw frames, a buffered reader, a reused message buffer, one write; wsutil.Reader where text is checked; a pooled wsflate.Writer and Reader",
	handler:   gobwasHandler,
	serve:     gobwasServe,
	dial:      gobwasDial,
	broadcast: gobwasBroadcast,
	utf8:      true,
	compress:  true,
}

type gobwasConn struct {
	nc       net.Conn
	br       *bufio.Reader
	state    ws.State
	compress bool
	level    int
	lean     bool
	turn     *sync.Mutex    // nil: one writer
	utf8     *wsutil.Reader // not nil: check text

	headIn  [ws.MaxHeaderSize]byte
	headOut [ws.MaxHeaderSize]byte
	message []byte
	plain   []byte // the inflated message
	control [125]byte
	out     bytes.Buffer
	two     [2][]byte
	vector  net.Buffers // of two
	closing sync.Once
}

// The tail that RFC 7692, section 7.2.2, has the receiver append is added by wsflate.Reader itself.
var gobwasInflaters = sync.Pool{New: func() any {
	return wsflate.NewReader(nil, func(r io.Reader) wsflate.Decompressor { return gobwasInflater{flate.NewReader(r)} })
}}

// gobwasInflater has the Reset method that wsflate.Reader looks for, so that it need not make another inflater.
type gobwasInflater struct{ io.ReadCloser }

func (i gobwasInflater) Reset(r io.Reader) { _ = i.ReadCloser.(flate.Resetter).Reset(r, nil) }

var gobwasDeflaters [10]sync.Pool

func gobwasDeflater(level int) *wsflate.Writer {
	if w, ok := gobwasDeflaters[level].Get().(*wsflate.Writer); ok {
		return w
	}
	return wsflate.NewWriter(nil, func(w io.Writer) wsflate.Compressor {
		fw, _ := flate.NewWriter(w, level)
		return fw
	})
}

func gobwasHandler(o options, ev *events) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ext := wsflate.Extension{Parameters: wsflate.Parameters{ServerNoContextTakeover: true, ClientNoContextTakeover: true}}
		up := ws.HTTPUpgrader{}
		if o.Compress {
			up.Negotiate = ext.Negotiate
		}
		nc, rw, _, err := up.Upgrade(r, w)
		if err != nil {
			return
		}
		_, accepted := ext.Accepted()
		c := newGobwasConn(nc, ws.StateServerSide, o, accepted)
		if n := rw.Reader.Buffered(); n > 0 {
			early, _ := rw.Reader.Peek(n)
			c.br = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), nc), 4096)
		}
		go c.loop(ev)
	})
}

// gobwasServe is the accept loop that a user of the library writes by hand: it reads the request itself.
func gobwasServe(l net.Listener, o options, ev *events) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			if _, err := ws.Upgrade(nc); err != nil {
				nc.Close()
				return
			}
			newGobwasConn(nc, ws.StateServerSide, o, false).loop(ev)
		}()
	}
}

func newGobwasConn(nc net.Conn, state ws.State, o options, compress bool) *gobwasConn {
	c := &gobwasConn{nc: nc, br: bufio.NewReaderSize(nc, 4096), state: state, compress: compress, level: o.Level, lean: o.Lean}
	if c.level == 0 {
		c.level = flate.BestSpeed
	}
	if o.Shared {
		c.turn = new(sync.Mutex)
	}
	if o.UTF8 {
		c.utf8 = &wsutil.Reader{State: state, CheckUTF8: true, OnIntermediate: func(h ws.Header, r io.Reader) error {
			return c.handleControl(h, nil)
		}}
	}
	return c
}

func gobwasDial(url string, o options, ev *events) (conn, error) {
	d := ws.Dialer{}
	if o.Compress {
		d.Extensions = []httphead.Option{wsflate.DefaultParameters.Option()}
	}
	nc, br, hs, err := d.Dial(background, url)
	if err != nil {
		return nil, err
	}
	c := newGobwasConn(nc, ws.StateClientSide, o, len(hs.Extensions) > 0)
	if br != nil {
		c.br = br
	}
	go c.loop(ev)
	return c, nil
}

var errGobwasClosed = errors.New("closed by the peer")

func (c *gobwasConn) loop(ev *events) {
	defer c.nc.Close()
	ev.open(c)
	for {
		var text bool
		var err error
		if c.utf8 != nil {
			text, err = c.nextChecked()
		} else {
			text, err = c.next(ev)
		}
		if err != nil {
			ev.closed(c, c.closeCode(err))
			return
		}
		ev.message(c, text, c.message)
		if c.lean {
			c.message, c.out, c.two = nil, bytes.Buffer{}, [2][]byte{}
		}
	}
}

func (c *gobwasConn) closeCode(err error) int {
	if err != errGobwasClosed {
		return codeDropped
	}
	code, _ := ws.ParseCloseFrameData(c.message)
	if code == 0 {
		return codeNone
	}
	return int(code)
}

// next reads one message, however fragmented, into c.message.
func (c *gobwasConn) next(ev *events) (text bool, err error) {
	c.message = c.message[:0]
	compressed := false
	for {
		h, err := ws.ReadHeaderBuffer(c.br, c.headIn[:0])
		if err != nil {
			return false, err
		}
		if h.OpCode.IsControl() {
			if err := c.handleControl(h, ev); err != nil {
				return false, err
			}
			continue
		}
		if h.OpCode != ws.OpContinuation {
			text, compressed = h.OpCode == ws.OpText, h.Rsv1()
		}
		if err := c.payload(h); err != nil {
			return false, err
		}
		if h.Fin {
			return text, c.inflate(compressed)
		}
	}
}

// payload appends a frame's payload to the message and unmasks it there.
func (c *gobwasConn) payload(h ws.Header) error {
	at, end := len(c.message), len(c.message)+int(h.Length)
	if end > cap(c.message) {
		c.message = append(make([]byte, 0, max(end, 2*cap(c.message), 512)), c.message...)
	}
	c.message = c.message[:end]
	if _, err := io.ReadFull(c.br, c.message[at:]); err != nil {
		return err
	}
	if h.Masked {
		ws.Cipher(c.message[at:], h.Mask, 0)
	}
	return nil
}

func (c *gobwasConn) inflate(compressed bool) error {
	if !compressed {
		return nil
	}
	fr := gobwasInflaters.Get().(*wsflate.Reader)
	defer gobwasInflaters.Put(fr)
	fr.Reset(bytes.NewReader(c.message))
	var err error
	c.plain, err = appendAll(c.plain[:0], fr)
	c.message, c.plain = c.plain, c.message
	return err
}

func (c *gobwasConn) handleControl(h ws.Header, ev *events) error {
	p := c.control[:h.Length]
	if _, err := io.ReadFull(c.br, p); err != nil {
		return err
	}
	if h.Masked {
		ws.Cipher(p, h.Mask, 0)
	}
	switch h.OpCode {
	case ws.OpPing:
		return c.frame(ws.OpPong, true, false, p)
	case ws.OpPong:
		if ev != nil {
			ev.pong(c)
		}
	case ws.OpClose:
		c.message = append(c.message[:0], p...)
		c.closing.Do(func() { _ = c.frame(ws.OpClose, true, false, p) })
		return errGobwasClosed
	}
	return nil
}

// nextChecked reads one message through wsutil.Reader, the part of the library that checks text.
func (c *gobwasConn) nextChecked() (text bool, err error) {
	c.utf8.Source = c.br
	h, err := c.utf8.NextFrame()
	if err != nil {
		return false, err
	}
	if h.OpCode.IsControl() {
		return false, io.EOF
	}
	c.message, err = appendAll(c.message[:0], c.utf8)
	return h.OpCode == ws.OpText, err
}

func gobwasOp(text bool) ws.OpCode {
	if text {
		return ws.OpText
	}
	return ws.OpBinary
}

func (c *gobwasConn) send(text bool, p []byte) error {
	if !c.compress {
		return c.frame(gobwasOp(text), true, false, p)
	}
	var b bytes.Buffer
	fw := gobwasDeflater(c.level)
	defer gobwasDeflaters[c.level].Put(fw)
	fw.Reset(&b)
	if _, err := fw.Write(p); err != nil {
		return err
	}
	if err := fw.Flush(); err != nil {
		return err
	}
	return c.frame(gobwasOp(text), true, true, b.Bytes())
}

// frame writes header and payload at once: in one buffer up to 16 KiB, as two of one writev above.
func (c *gobwasConn) frame(op ws.OpCode, fin, compressed bool, p []byte) error {
	if c.turn != nil {
		c.turn.Lock()
		defer c.turn.Unlock()
	}
	h := ws.Header{Fin: fin, OpCode: op, Length: int64(len(p)), Rsv: ws.Rsv(compressed, false, false)}
	c.out.Reset()
	if c.state.ClientSide() {
		h.Masked, h.Mask = true, ws.NewMask()
	}
	if err := ws.WriteHeaderBuffer(&c.out, h, c.headOut[:]); err != nil {
		return err
	}
	if !h.Masked && len(p) > 16<<10 {
		c.two = [2][]byte{c.out.Bytes(), p}
		c.vector = c.two[:]
		_, err := c.vector.WriteTo(c.nc)
		return err
	}
	at := c.out.Len()
	c.out.Write(p)
	if h.Masked {
		ws.Cipher(c.out.Bytes()[at:], h.Mask, 0)
	}
	_, err := c.nc.Write(c.out.Bytes())
	return err
}

func (c *gobwasConn) sendParts(text bool, parts ...[]byte) error {
	op := gobwasOp(text)
	for i, p := range parts {
		if err := c.frame(op, i == len(parts)-1, false, p); err != nil {
			return err
		}
		op = ws.OpContinuation
	}
	return nil
}

func (c *gobwasConn) ping() error { return c.frame(ws.OpPing, true, false, []byte("ping")) }

func (c *gobwasConn) shut(code int, reason string) (err error) {
	c.closing.Do(func() { err = c.frame(ws.OpClose, true, false, ws.NewCloseFrameBody(ws.StatusCode(code), reason)) })
	return err
}

// gobwasBroadcast frames the message once and writes the bytes to each connection.
func gobwasBroadcast(cs []conn, p []byte) error {
	if len(cs) > 0 && cs[0].(*gobwasConn).compress {
		f, err := wsflate.CompressFrame(ws.NewBinaryFrame(p))
		if err != nil {
			return err
		}
		return gobwasWriteAll(cs, ws.MustCompileFrame(f))
	}
	return gobwasWriteAll(cs, ws.MustCompileFrame(ws.NewBinaryFrame(p)))
}

func gobwasWriteAll(cs []conn, frame []byte) error {
	for _, c := range cs {
		if _, err := c.(*gobwasConn).nc.Write(frame); err != nil {
			return err
		}
	}
	return nil
}
