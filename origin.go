//go:build !(js && websocket_nohttp)

package websocket

// The check of the Origin field and its patterns decides which web pages may connect. A browser sends the user's
// cookies with the handshake of every page, so a server that accepts every origin lets every page act for the user (RFC
// 6455, section 10.2).

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// checkOrigin accepts origins that have the request's own host or match a pattern. RFC 6455, section 4.2.2: "If the
// origin indicated is unacceptable to the server, then it SHOULD respond to the WebSocket handshake with a reply
// containing an HTTP 403 Forbidden status code."
func checkOrigin(r *http.Request, patterns []string) *refusal {
	values, ok := r.Header["Origin"]
	if !ok {
		return nil // not a web page (RFC 6455, section 4.2.1, item 7)
	}
	if len(values) == 1 {
		if o, ok := parseOrigin(values[0]); ok && (o.hasHost(r.Host) || o.matchesAny(patterns)) {
			return nil
		}
	}
	reason := fmt.Sprintf("the origin %.200q does not have the host %.200q of the request", strings.Join(values, ", "), r.Host)
	if len(patterns) != 0 {
		reason += " and is not one of the other accepted origins"
	}
	return refuse(http.StatusForbidden, reason)
}

// An origin is the origin of a web page (RFC 6454, section 4) or a pattern for origins. A pattern may lack the scheme,
// its host may begin with "*.", and its port may be "*". A missing port is "". The fields keep the spelling of the
// caller or the browser, and are compared without regard to case.
type origin struct{ scheme, host, port string }

// parseOrigin parses the serialization of RFC 6454, section 6.2. "null" is not an origin with a host.
func parseOrigin(s string) (origin, bool) {
	o, ok := cutOrigin(s)
	return o, ok && o.scheme != "" && !strings.Contains(o.host, "*") && o.port != "*"
}

// parsePattern parses an element of Options.Origins: [scheme://]host[:port], where host may begin with "*.".
func parsePattern(s string) (origin, bool) {
	o, ok := cutOrigin(s)
	host := strings.TrimPrefix(o.host, "*.")
	return o, ok && host != "" && !strings.Contains(host, "*")
}

// checkPattern reports a pattern that does not parse or that matches no origin a browser sends. Without this check,
// such a mistake would show only when the first user is refused.
func checkPattern(s string) error {
	p, ok := parsePattern(s)
	switch {
	case p.host == "*":
		return fmt.Errorf("%q would accept every web page; set CheckOrigin if that is intended", s)
	case s == "null":
		return errors.New(`"null" is the origin of local files and of sandboxed pages anywhere; set CheckOrigin to accept it`)
	case !ok || strings.Contains(s, "%"):
		return fmt.Errorf("%q is not [scheme://]host[:port]", s)
	case !isASCII(s):
		return fmt.Errorf("%q matches no origin: browsers send the host in its ASCII form, which begins with xn--", s)
	case equalFold(p.scheme, "ws") || equalFold(p.scheme, "wss"):
		return fmt.Errorf("%q matches no origin: the scheme of a web page is http or https", s)
	case !isCanonicalHost(p.host) && (p.scheme == "" || p.isWeb()):
		return fmt.Errorf("%q matches no origin: browsers write an IP address like 127.0.0.1 or [::1]", s)
	}
	return nil
}

// isCanonicalHost reports whether browsers send a host in this form. They parse a name whose last label is a number as
// an IPv4 address, and send every IP address in its canonical form.
func isCanonicalHost(host string) bool {
	v6, ok := strings.CutPrefix(host, "[")
	if ok {
		v6 = strings.TrimSuffix(v6, "]")
		ip, err := netip.ParseAddr(v6)
		return err == nil && ip.Is6() && (ip.Is4In6() || equalFold(ip.String(), v6))
	}
	host = strings.TrimSuffix(host, ".")
	if last := host[strings.LastIndexByte(host, '.')+1:]; !isNumber(last) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Is4()
}

// isNumber reports whether s is a decimal or hexadecimal number of any length.
func isNumber(s string) bool {
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		return consistsOf(hex, "0123456789abcdefABCDEF")
	}
	return s != "" && consistsOf(s, "0123456789")
}

// cutOrigin splits [scheme://]host[:port], where host and port may have a "*". A path, a query or a user is an error.
func cutOrigin(s string) (o origin, ok bool) {
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if !isScheme(scheme) {
			return o, false
		}
		o.scheme, s = scheme, rest
	}
	o.host, o.port, ok = cutPort(s)
	return o, ok && isHostName(o.host)
}

// isScheme follows RFC 3986, section 3.1: ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ).
func isScheme(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return s != "" && strings.IndexByte(letters, s[0]) >= 0 && consistsOf(s, letters+"0123456789+-.")
}

// consistsOf reports whether s has no other characters than those in set.
func consistsOf(s, set string) bool { return strings.Trim(s, set) == "" }

// cutPort splits host[:port]. The port must be a number or "*". The brackets of an IPv6 address remain part of the
// host.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, "", true
	}
	host, port = s[:i], s[i+1:]
	return host, port, port == "*" || isDecimal(port, 16)
}

// isHostPort reports whether s is host[:port].
func isHostPort(s string) bool {
	host, port, ok := cutPort(s)
	return ok && port != "*" && isHostName(host)
}

// isHostName reports whether s may be a host. It is lenient, because hosts are only compared.
func isHostName(s string) bool {
	if strings.HasPrefix(s, "[") {
		return len(s) > 2 && strings.HasSuffix(s, "]") && consistsOf(s[1:len(s)-1], "0123456789abcdefABCDEF:.%")
	}
	return s != "" && isFieldValue(s) && !strings.ContainsAny(s, "/\\?#@[]:,\"<>^`{|} \t")
}

// hasHost reports whether o has the host and port to which the request was sent. Its scheme may be http or https: if a
// proxy terminates TLS, the server does not know which one the page used.
func (o origin) hasHost(host string) bool {
	name, port, ok := cutPort(host)
	return ok && !strings.Contains(host, "*") && origin{host: name, port: port}.matches(o)
}

// matchesAny reports whether one of the patterns matches the origin o.
func (o origin) matchesAny(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(s string) bool {
		p, ok := parsePattern(s)
		return ok && p.matches(o)
	})
}

// matches reports whether the pattern p matches the origin o. "*.example.com" matches names of any depth below
// example.com.
func (p origin) matches(o origin) bool {
	if p.scheme == "" && !o.isWeb() || p.scheme != "" && !equalFold(p.scheme, o.scheme) {
		return false
	}
	def := defaultPort(o.scheme)
	if p.port != "*" && cmp.Or(p.port, def) != cmp.Or(o.port, def) {
		return false
	}
	if below, ok := strings.CutPrefix(p.host, "*"); ok {
		return len(o.host) > len(below) && equalFold(o.host[len(o.host)-len(below):], below)
	}
	return equalFold(p.host, o.host)
}

// isWeb reports whether o has the scheme of a web page, unlike the origin of a browser extension, for example.
func (o origin) isWeb() bool { return equalFold(o.scheme, "http") || equalFold(o.scheme, "https") }

var defaultPorts = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}

// defaultPort returns the default port of a scheme, or "".
func defaultPort(scheme string) string { return defaultPorts[strings.ToLower(scheme)] }
