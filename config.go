package websocket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The defaults of Options, which its fields document.
const (
	defaultKeepAlive    = 30 * time.Second
	defaultCloseTimeout = 5 * time.Second
	defaultWriteTimeout = 30 * time.Second
	defaultMaxPending   = 1 << 20
)

// noOptions replaces a nil *Options. Nothing changes it.
var noOptions Options

// config returns the settings of a connection, with defaults applied. The handshake adds what it negotiates. The
// Options must have been checked. The connection does not keep them.
func (o *Options) config(server bool) config {
	return config{
		terms: terms{
			server:       server,
			errorLog:     o.ErrorLog,
			closeTimeout: cmp.Or(o.CloseTimeout, defaultCloseTimeout),
			writeTimeout: cmp.Or(o.WriteTimeout, defaultWriteTimeout),
			maxPending:   cmp.Or(o.MaxPending, defaultMaxPending),
		},
		maxMessage: cmp.Or(o.MaxMessageSize, defaultMaxMessage),
		keepAlive:  cmp.Or(o.KeepAlive, defaultKeepAlive),
	}
}

// checkCommon reports the first option that is out of range. It checks only the options that every build has.
func (o *Options) checkCommon() error {
	switch {
	// Without these bounds a peer could hold a connection, or its pending messages, forever.
	case o.CloseTimeout < 0:
		return errors.New("Options.CloseTimeout is negative")
	case o.MaxPending < 0:
		return errors.New("Options.MaxPending is negative")
	}
	if err := checkSubprotocols(o.Subprotocols); err != nil {
		return err
	}
	return o.Compression.check()
}

// checkSubprotocols obeys RFC 6455, section 4.1: "The elements that comprise this value MUST be non-empty strings with
// characters in the range U+0021 to U+007E not including separator characters [...] and MUST all be unique strings."
func checkSubprotocols(list []string) error {
	for i, p := range list {
		if !isToken(p) {
			return fmt.Errorf("Options.Subprotocols: %q is not a token", p)
		}
		if slices.Contains(list[:i], p) {
			return fmt.Errorf("Options.Subprotocols: %q is listed twice", p)
		}
	}
	return nil
}

// enter makes c a member of g, which may be nil. It reports false if g was shut down. A server calls enter before it
// sends the response: when a client's Dial has returned, the connection is already in the group, or was refused because
// the group was shut down.
func enter(c *Conn, g *Group) bool { return g == nil || g.Add(c) }

// refusesDial returns the reason why a Dial must not even ask the server for a connection, or nil.
func (o *Options) refusesDial(ctx context.Context) error {
	switch {
	case ctx == nil:
		return &HandshakeError{Reason: "the connection was not opened", Err: errNilContext}
	case ctx.Err() != nil:
		return &HandshakeError{Reason: "the context has ended", Err: contextError(ctx)}
	case o.Group.isClosed():
		return &HandshakeError{Reason: "the group is shut down"}
	}
	return nil
}

// enterDialed is enter for the end of a Dial. If g was shut down, a closing handshake ends the connection, because the
// server has accepted it.
func enterDialed(c *Conn, g *Group) (*Conn, error) {
	if !enter(c, g) {
		go c.Close(StatusGoingAway, "")
		return nil, &HandshakeError{Reason: "the group is shut down"}
	}
	return c, nil
}

// firstOffered returns the first of choices that is in the list of header fields, or "". The order of choices decides.
// RFC 6455, section 4.2.2: "The value chosen MUST be derived from the client's handshake, specifically by selecting one
// of the values from the |Sec-WebSocket-Protocol| field".
func firstOffered(choices []string, offered []string) string {
	for _, p := range choices {
		for s := range elements(offered) {
			if s == p {
				return p
			}
		}
	}
	return ""
}
