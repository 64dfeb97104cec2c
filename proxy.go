package websocket

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// proxyTime bounds the conversation with a proxy that says nothing, as net/http does.
const proxyTime = time.Minute

// proxyOf returns the proxy that the transport has for req, or nil.
func (t *transport) proxyOf(req *http.Request) (*url.URL, error) {
	if t.Proxy == nil {
		return nil, nil
	}
	p, err := t.Proxy(req)
	if err != nil {
		return nil, &HandshakeError{Reason: "there is no telling which proxy to use", Err: err}
	}
	if p != nil && proxyPort(p.Scheme) == "" {
		return nil, &HandshakeError{Reason: fmt.Sprintf("a proxy of the kind %q is not known", p.Scheme)}
	}
	return p, nil
}

func proxyPort(scheme string) string {
	if strings.HasPrefix(scheme, "socks5") {
		return "1080"
	}
	return defaultPort(scheme)
}

// inProxy says of an error that it was met on the way to the proxy.
func inProxy(err error, proxy *url.URL) error {
	var e *HandshakeError
	if errors.As(err, &e) {
		e.Reason = "the proxy " + proxy.Host + ": " + e.Reason
	}
	return err
}

// pass has the proxy at the other end of w connect it to addr.
func (w *wire) pass(ctx context.Context, t *transport, proxy *url.URL, addr string) error {
	w.SetDeadline(time.Now().Add(proxyTime))
	var err error
	if proxy.Scheme == "http" || proxy.Scheme == "https" {
		err = w.connectHTTP(ctx, t, proxy, addr)
	} else {
		err = w.connectSOCKS(proxy.User, addr)
	}
	w.SetDeadline(time.Time{})
	if e := (*HandshakeError)(nil); err != nil && !errors.As(err, &e) {
		return &HandshakeError{Reason: "no connection to " + addr + " through the proxy " + proxy.Host, Err: err}
	}
	return err
}

// connectHTTP opens a tunnel. RFC 6455, section 4.1: "If the user agent is configured to use a proxy when
// using the WebSocket Protocol to connect to host /host/ and port /port/, then the user agent SHOULD connect to
// that proxy and ask it to open a TCP connection to the host given by /host/ and the port given by /port/."
func (w *wire) connectHTTP(ctx context.Context, t *transport, proxy *url.URL, addr string) error {
	h, err := t.connectHeader(ctx, proxy, addr)
	if err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: h}
	resp, err := w.exchange(req.WithContext(ctx), t, 0)
	if err != nil {
		return err
	}
	if t.OnProxyConnectResponse != nil {
		if err := t.OnProxyConnectResponse(ctx, proxy, req, resp); err != nil {
			return err
		}
	}
	// RFC 9110, section 9.3.6: "Any 2xx (Successful) response indicates that the sender (and all inbound
	// proxies) will switch to tunnel mode immediately after the response header section".
	if resp.StatusCode/100 == 2 {
		return nil
	}
	w.SetDeadline(time.Now().Add(errorBodyTime))
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	return &HandshakeError{
		Reason:     "the proxy " + proxy.Host + " answered " + resp.Status,
		StatusCode: resp.StatusCode,
		Header:     resp.Header,
		Body:       p,
	}
}

// connectHeader returns what the transport wants to be sent to the proxy.
func (t *transport) connectHeader(ctx context.Context, proxy *url.URL, addr string) (http.Header, error) {
	h := t.ProxyConnectHeader
	if t.GetProxyConnectHeader != nil {
		var err error
		if h, err = t.GetProxyConnectHeader(ctx, proxy, addr); err != nil {
			return nil, err
		}
	}
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	if name, ok := badValue(h); ok {
		return nil, fmt.Errorf("the value of %s holds a control character", name)
	}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		h.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	return h, nil
}

// The numbers of SOCKS5 (RFC 1928, and RFC 1929 for user and password).
const (
	socksVersion      = 5
	socksNoAuth       = 0
	socksPassword     = 2
	socksAuthVersion  = 1
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksIPv6         = 4
	socksMaxNameBytes = 255
)

var socksReplies = [...]string{
	1: "general failure",
	2: "connection not allowed by the ruleset",
	3: "network unreachable",
	4: "host unreachable",
	5: "connection refused",
	6: "TTL expired",
	7: "command not supported",
	8: "address type not supported",
}

// connectSOCKS has a SOCKS5 proxy connect to addr. Names are sent as they are, for the proxy to resolve.
func (w *wire) connectSOCKS(user *url.Userinfo, addr string) error {
	request, err := appendSOCKSRequest(nil, addr)
	if err != nil {
		return err
	}
	if err := w.authSOCKS(user); err != nil {
		return err
	}
	if _, err := w.Conn.Write(request); err != nil {
		return err
	}
	return w.readSOCKSReply()
}

// authSOCKS agrees on a method of authentication, and authenticates.
func (w *wire) authSOCKS(user *url.Userinfo) error {
	methods := []byte{socksNoAuth}
	if user != nil {
		methods = append(methods, socksPassword)
	}
	answer, err := w.askSOCKS(append([]byte{socksVersion, byte(len(methods))}, methods...))
	switch {
	case err != nil:
		return err
	case answer[0] != socksVersion:
		return fmt.Errorf("it does not speak SOCKS5 but %d", answer[0])
	case answer[1] == socksNoAuth:
		return nil
	case answer[1] != socksPassword || user == nil:
		return errors.New("it demands another authentication")
	}
	return w.loginSOCKS(user)
}

func (w *wire) loginSOCKS(user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if name == "" || max(len(name), len(password)) > 255 {
		return errors.New("SOCKS5 has names and passwords of 1 to 255 bytes")
	}
	p := append([]byte{socksAuthVersion, byte(len(name))}, name...)
	p = append(append(p, byte(len(password))), password...)
	answer, err := w.askSOCKS(p)
	if err == nil && answer[1] != 0 {
		err = errors.New("it does not accept the user and password")
	}
	return err
}

// askSOCKS sends p and reads the two bytes that answer it.
func (w *wire) askSOCKS(p []byte) (answer [2]byte, err error) {
	if _, err = w.Conn.Write(p); err == nil {
		_, err = io.ReadFull(w.Conn, answer[:])
	}
	return answer, err
}

func appendSOCKSRequest(b []byte, addr string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	b = append(b, socksVersion, socksConnect, 0)
	switch ip, err := netip.ParseAddr(host); {
	case err != nil && len(host) > socksMaxNameBytes:
		return nil, errors.New("the name of the host is too long")
	case err != nil:
		b = append(append(b, socksName, byte(len(host))), host...)
	case ip.Is4():
		b = append(append(b, socksIPv4), ip.AsSlice()...)
	default:
		b = append(append(b, socksIPv6), ip.AsSlice()...)
	}
	return append(b, byte(n>>8), byte(n)), nil
}

// readSOCKSReply reads the reply and the address in it, not a byte more.
func (w *wire) readSOCKSReply() error {
	var b [4 + 1 + socksMaxNameBytes + 2]byte
	if _, err := io.ReadFull(w.Conn, b[:5]); err != nil {
		return err
	}
	switch code := int(b[1]); {
	case b[0] != socksVersion:
		return fmt.Errorf("it does not speak SOCKS5 but %d", b[0])
	case code != 0 && code < len(socksReplies):
		return errors.New(socksReplies[code])
	case code != 0:
		return fmt.Errorf("it answered with the code %d", code)
	}
	n := 1 + int(b[4]) // of the address, of which b[4] is the first byte
	switch b[3] {
	case socksIPv4:
		n = 4
	case socksIPv6:
		n = 16
	case socksName:
	default:
		return fmt.Errorf("its address has the type %d", b[3])
	}
	_, err := io.ReadFull(w.Conn, b[5:4+n+2])
	return err
}
