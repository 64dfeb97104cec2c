package websocket

// The errors of the package. An error carries the close code that it calls for; ending.fail is the one function that
// turns an error into a close frame. A CloseError is always the peer's frame; a ProtocolError is always our verdict.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A StatusCode is the reason why a connection was closed (RFC 6455, section 7.4). It implements error, so that
// errors.Is(err, websocket.StatusGoingAway) reports whether err is a [*CloseError] or [*ProtocolError] with that code.
type StatusCode uint16

// These are the status codes of RFC 6455, section 7.4.1, and those registered with IANA since. Libraries and
// applications may use codes from 3000 to 4999.
const (
	StatusNormalClosure           StatusCode = 1000
	StatusGoingAway               StatusCode = 1001
	StatusProtocolError           StatusCode = 1002
	StatusUnsupportedData         StatusCode = 1003
	StatusNoStatusRcvd            StatusCode = 1005 // never sent: a close frame without a code
	StatusAbnormalClosure         StatusCode = 1006 // never sent: the connection ended without a close frame
	StatusInvalidFramePayloadData StatusCode = 1007
	StatusPolicyViolation         StatusCode = 1008
	StatusMessageTooBig           StatusCode = 1009
	StatusMandatoryExtension      StatusCode = 1010
	StatusInternalError           StatusCode = 1011
	StatusServiceRestart          StatusCode = 1012
	StatusTryAgainLater           StatusCode = 1013
	StatusBadGateway              StatusCode = 1014
	StatusTLSHandshake            StatusCode = 1015 // never sent
)

var statusNames = map[StatusCode]string{
	StatusNormalClosure:           "normal closure",
	StatusGoingAway:               "going away",
	StatusProtocolError:           "protocol error",
	StatusUnsupportedData:         "unsupported data",
	StatusNoStatusRcvd:            "no status received",
	StatusAbnormalClosure:         "abnormal closure",
	StatusInvalidFramePayloadData: "invalid frame payload data",
	StatusPolicyViolation:         "policy violation",
	StatusMessageTooBig:           "message too big",
	StatusMandatoryExtension:      "mandatory extension",
	StatusInternalError:           "internal error",
	StatusServiceRestart:          "service restart",
	StatusTryAgainLater:           "try again later",
	StatusBadGateway:              "bad gateway",
	StatusTLSHandshake:            "TLS handshake",
}

// Error returns the number and, if it has one, the name of the code.
func (c StatusCode) Error() string {
	return describe("websocket: status ", c, "")
}

// CloseStatus returns the status code of err or of an error that err wraps: the code of a [*CloseError] or
// [*ProtocolError], [StatusAbnormalClosure] if the connection ended without a close frame, the code of a StatusCode
// itself, and 0 for any other error. It returns 0 for nil and for [net.ErrClosed], which is the error after Close or
// CloseNow at this end.
func CloseStatus(err error) StatusCode {
	var closed *CloseError
	var failed *ProtocolError
	var code StatusCode
	switch {
	case errors.As(err, &closed):
		return closed.Code
	case errors.As(err, &failed):
		return failed.Code
	case errors.Is(err, StatusAbnormalClosure):
		return StatusAbnormalClosure
	}
	errors.As(err, &code)
	return code
}

// A CloseError is the close frame that the peer sent. Every later read and write returns it as a *CloseError. Reason is
// the peer's text, at most 123 bytes of valid UTF-8, which is not meant for end users (RFC 6455, section 5.5.1). If the
// close frame has no code, Code is [StatusNoStatusRcvd].
type CloseError struct {
	Code   StatusCode
	Reason string
}

// Error returns the code and the reason.
func (e *CloseError) Error() string {
	return describe("websocket: closed by the peer: ", e.Code, e.Reason)
}

// Is reports whether target is the StatusCode of e.
func (e *CloseError) Is(target error) bool {
	code, ok := target.(StatusCode)
	return ok && code == e.Code
}

// A ProtocolError reports that this end failed the connection: usually because the peer violated the protocol or a
// limit or, with StatusInternalError, because this end could not go on. A close frame with Code was queued for the peer
// (RFC 6455, section 7.1.7). Methods return it as a *ProtocolError.
type ProtocolError struct {
	Code   StatusCode
	Reason string
}

// Error returns the code and the reason.
func (e *ProtocolError) Error() string {
	return describe("websocket: connection failed: ", e.Code, e.Reason)
}

// Is reports whether target is the StatusCode of e, or [ErrMessageTooBig] if the code is [StatusMessageTooBig], or
// [ErrBacklog] if it is [StatusTryAgainLater].
func (e *ProtocolError) Is(target error) bool {
	switch target {
	case ErrMessageTooBig:
		return e.Code == StatusMessageTooBig
	case ErrBacklog:
		return e.Code == StatusTryAgainLater
	}
	code, ok := target.(StatusCode)
	return ok && code == e.Code
}

// describe returns prefix, the code with its name if it has one, and the reason if it is not empty.
func describe(prefix string, code StatusCode, reason string) string {
	s := prefix + strconv.Itoa(int(code))
	if name, ok := statusNames[code]; ok {
		s += " (" + name + ")"
	}
	if reason != "" {
		s += ": " + strconv.Quote(reason)
	}
	return s
}

// Error returns one line: the reason, the HTTP status, the first line of the body if it is text, and the cause.
func (e *HandshakeError) Error() string {
	s := "websocket: handshake: " + e.Reason
	if e.StatusCode != 0 {
		s += " (" + strings.TrimSpace(fmt.Sprintf("HTTP status %d %s", e.StatusCode, statusText(e.StatusCode))) + ")"
	}
	if line := firstLine(e.Body); line != "" {
		s += ": " + line
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return printable(s)
}

// firstLine returns the first nonblank line of body, cut to 200 bytes, or "" if it is not plain text.
func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if n := 200; len(line) > n {
		for !utf8.RuneStart(line[n]) && n > 0 {
			n--
		}
		line = line[:n]
	}
	if !utf8.ValidString(line) || strings.Contains(line, "\x00") || strings.HasPrefix(line, "<") {
		return "" // binary, or HTML
	}
	return printable(strings.TrimSpace(line))
}

// printable returns s on one line and without characters that could control a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// Unwrap returns the cause, such as the error of the context passed to Dial.
func (e *HandshakeError) Unwrap() error { return e.Err }

// ErrMessageTooBig matches the error of a read whose message exceeds Options.MaxMessageSize. The connection has failed,
// and the peer was sent [StatusMessageTooBig].
var ErrMessageTooBig = errors.New("websocket: message too big")

// ErrBacklog is returned by Send and SendPrepared if more than Options.MaxPending bytes would be waiting to be sent.
// The message was not queued, and the connection stays usable.
//
// If Broadcast closes a connection because its peer is too slow, the error of the connection matches both ErrBacklog
// and StatusTryAgainLater.
var ErrBacklog = errors.New("websocket: too many bytes are waiting to be sent")

// A lostError reports a connection that ended without a close frame. It matches [StatusAbnormalClosure] and the error
// that it wraps.
type lostError struct {
	doing string // what the Conn was doing, such as "reading"
	err   error  // what the network reported
}

// Error names the activity and the cause.
func (e *lostError) Error() string {
	return "websocket: connection lost while " + e.doing + ": " + e.err.Error()
}

func (e *lostError) Unwrap() error { return e.err }

// Is reports whether target is StatusAbnormalClosure, the code that RFC 6455, section 7.1.5, assigns to a lost
// connection.
func (e *lostError) Is(target error) bool { return target == error(StatusAbnormalClosure) }
