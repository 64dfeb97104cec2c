package websocket

// The control frames that a writer sends, and the end of the sending: the close frame, after which no message is sent;
// abort, after which nothing is; and pongs and pings, which go out between the frames of a message (section 5.4).

// finalize queues frame, our close frame, as the last one, and sends it if the socket is free. It does not wait.
// Section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame." Until the peer has
// sent its own close frame, its pings are still answered. Waiting and later calls return err. Frames that were accepted
// go out first, unless drop is set; then only the rest of the frame that is being sent does.
func (w *writer) finalize(err error, frame []byte, drop bool) {
	e := w.queueClose(err, frame, drop)
	// In the usual case drive is not called, so that the stack of a goroutine that only reads does not grow: see
	// reader.fill.
	if e != nil && e.closing && w.c.sock != nil {
		n, _ := w.c.sock.tryWrite(e.data) // drive meets the error again
		e.data, e.sent = e.data[n:], n > 0
		if len(e.data) == 0 {
			w.driveLater(w.sent(e))
			e.free(nil)
			return
		}
	}
	w.driveSome(e)
}

// queueClose queues the close frame for finalize, and returns what to send first.
func (w *writer) queueClose(err error, frame []byte, drop bool) *entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	failed := w.err != nil
	w.err, w.pingDue = err, false
	if failed { // a write has, before the verdict: see ending.writeFailed
		return nil
	}
	w.closes = true
	// A message that is complete, or that will not begin, no longer holds frames back.
	if w.stream != nil && !w.stream.open {
		w.queue.append(&w.stream.held)
	}
	w.dismissHeld()
	w.dismiss(&w.queue, drop)
	e := newEntry()
	e.accepted, e.closing, e.data = true, true, frame
	w.bytes += uint64(len(frame))
	w.queue.push(e)
	return w.acquire()
}

// endClose records that our close frame was sent or dropped. mu is held.
func (w *writer) endClose() {
	w.gone = true
	w.flushed.fire()
}

// abort drops everything that is queued, because nothing more can be written: a write failed, or the underlying
// connection is about to be closed. After that, no goroutine gets the socket. Later calls return the verdict or, as
// long as there is none, err.
func (w *writer) abort(err error) {
	w.mu.Lock()
	if verdict := w.c.end.failure(); verdict != nil {
		w.err = verdict
	} else if w.err == nil {
		w.err = err
	}
	w.muted, w.pongDue, w.pingDue = true, nil, false
	w.dismissHeld()
	w.dismiss(&w.queue, true)
	free, stop := !w.busy, func() bool { return true }
	w.busy = true // forever, if no goroutine owns the socket now; otherwise its owner sees muted in next
	if w.stream != nil {
		stop = w.stream.stop
	}
	w.mu.Unlock()
	stop() // without mu, which abandon takes when it ends the message
	if free {
		w.watch.unset()
	}
}

// flushing returns a channel that is closed when our close frame has been sent or dropped, or nil if there is none.
func (w *writer) flushing() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closes {
		return nil
	}
	return w.flushed.wait(w.gone)
}

// isFlushed reports whether our close frame has been sent or dropped.
func (w *writer) isFlushed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

// onlyCloses reports whether our close frame has been sent or is all that is left to send. Its entry has no size,
// because MaxPending does not apply to it.
func (w *writer) onlyCloses() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.queue.first()
	return w.closes && w.pending() == 0 && (e == nil || e.closing)
}

// A pongPayload is the payload of a pong that is due. While the pong waits for the socket, the payloads of newer pings
// replace it, so a flood of pings takes no more memory than one.
type pongPayload struct {
	b [maxControlPayload]byte
	n int
}

// pong answers a ping. Section 5.5.3: "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in
// response to previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the most recently processed
// Ping frame." And: "A Pong frame sent in response to a Ping frame must have identical "Application data" as found in
// the message body of the Ping frame being replied to."
func (w *writer) pong(payload []byte) {
	w.mu.Lock()
	if w.muted {
		w.mu.Unlock()
		return
	}
	if w.pongDue == nil {
		w.pongDue = new(pongPayload)
	}
	w.pongDue.n = copy(w.pongDue.b[:], payload)
	w.sendAndUnlock()
}

// sendPing sends the newest ping. If the socket is busy, its owner sends the ping next. Before that, newer pings
// replace it.
func (w *writer) sendPing() {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.pingDue = true
	w.sendAndUnlock()
}

// controlEntry makes an entry of the pong and the ping that are due. It does not count as pending. mu is held.
func (w *writer) controlEntry() *entry {
	e := newEntry()
	e.accepted, e.buf = true, getBuffer(1)
	masked := masks(w.c.agreed.server)
	if p := w.pongDue; p != nil {
		e.buf.b = appendFrame(e.buf.b, &header{fin: true, masked: masked, opcode: opPong}, p.b[:p.n])
	}
	if w.pingDue {
		e.buf.b = appendFrame(e.buf.b, &header{fin: true, masked: masked, opcode: opPing}, w.c.pings.Load().payload())
	}
	w.pongDue, w.pingDue = nil, false
	e.data = e.buf.b
	w.bytes += uint64(len(e.data))
	return e
}
