package websocket

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A StatusCode says why a connection was closed (RFC 6455, section 7.4). It is an error, so that
// errors.Is(err, websocket.StatusGoingAway) matches a [CloseError] or a [ProtocolError] of that code.
type StatusCode uint16

// The status codes of RFC 6455, section 7.4.1, and those registered with IANA since. Codes from 3000 to
// 4999 are for libraries and applications.
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

// Error returns the number and, where it has one, the name of the code.
func (c StatusCode) Error() string {
	s := "websocket: status " + strconv.Itoa(int(c))
	if name, ok := statusNames[c]; ok {
		s += " (" + name + ")"
	}
	return s
}

// CloseStatus returns the code that err, or an error it wraps, stands for: the code of a [*CloseError] or
// [*ProtocolError], [StatusAbnormalClosure] for a connection that ended without a close frame, and 0 for any other
// error. It is 0 for nil and for [net.ErrClosed], the error after our own Close.
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

// A CloseError is the close frame of the peer; every read and write after it returns it, as a *CloseError.
// Reason is the peer's text: valid UTF-8, at most 123 bytes, and not meant for the eyes of an end user
// (RFC 6455, section 5.5.1). A close frame without a code has Code [StatusNoStatusRcvd].
type CloseError struct {
	Code   StatusCode
	Reason string
}

func (e *CloseError) Error() string {
	return describe("websocket: closed by the peer", e.Code, e.Reason)
}

// Is reports whether target is the error's StatusCode.
func (e *CloseError) Is(target error) bool {
	code, ok := target.(StatusCode)
	return ok && code == e.Code
}

// A ProtocolError is our verdict on a peer that broke the protocol or a limit: the connection was failed
// with Code, and the peer was told so (RFC 6455, section 7.1.7). It is used as a *ProtocolError.
type ProtocolError struct {
	Code   StatusCode
	Reason string
}

func (e *ProtocolError) Error() string {
	return describe("websocket: failed the connection", e.Code, e.Reason)
}

// Is reports whether target is the error's StatusCode, or [ErrMessageTooBig] where the code is
// [StatusMessageTooBig].
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

func describe(what string, code StatusCode, reason string) string {
	s := what + ": " + strconv.Itoa(int(code))
	if name, ok := statusNames[code]; ok {
		s += " (" + name + ")"
	}
	if reason != "" {
		s += ": " + strconv.Quote(reason)
	}
	return s
}

// A HandshakeError is an opening handshake that did not make a connection. Every error of [Upgrade] and
// [Dial] is a *HandshakeError.
type HandshakeError struct {
	Reason     string      // what was wrong, in words
	StatusCode int         // of the HTTP response sent (Upgrade) or received (Dial); 0 if there was none
	Header     http.Header // Dial: of the response
	Body       []byte      // Dial: its first bytes, at most 4 KiB
	Err        error       // cause, or nil
}

// Error returns one line: the reason, the HTTP status, the first line of the body if it is text, and the cause.
func (e *HandshakeError) Error() string {
	s := "websocket: handshake: " + e.Reason
	if e.StatusCode != 0 {
		s += " (" + strings.TrimSpace(fmt.Sprintf("HTTP status %d %s", e.StatusCode, http.StatusText(e.StatusCode))) + ")"
	}
	if line := firstLine(e.Body); line != "" {
		s += ": " + line
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return printable(s)
}

// firstLine returns at most 200 bytes of the first line of body that is not blank, or "" if that is not plain text.
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

// printable returns s in one line and without characters that control a terminal.
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

// Unwrap returns the cause, such as the error of the context that bounded Dial.
func (e *HandshakeError) Unwrap() error { return e.Err }

// ErrMessageTooBig matches the error of a read whose message passed Options.MaxMessageSize. The peer was
// sent [StatusMessageTooBig] and the connection has failed.
var ErrMessageTooBig = errors.New("websocket: message too big")

// ErrBacklog is returned by Send and SendPrepared when Options.MaxPending bytes are waiting to be sent
// already. Nothing of the message was queued and the connection lives.
var ErrBacklog = errors.New("websocket: too many bytes are waiting to be sent")

// A lostError is a connection that ended without a close frame. It matches [StatusAbnormalClosure] and
// whatever it wraps.
type lostError struct {
	doing string // "reading", "writing"
	err   error
}

func (e *lostError) Error() string {
	return "websocket: connection lost while " + e.doing + ": " + e.err.Error()
}

func (e *lostError) Unwrap() error { return e.err }

// Is makes a lost connection match the code that RFC 6455, section 7.1.5, has for it.
func (e *lostError) Is(target error) bool { return target == error(StatusAbnormalClosure) }
