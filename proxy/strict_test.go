package proxy

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A message is a request or a response as the strictest of recipients takes it: what RFC 9112 lets a
// recipient tolerate is an error here, because a proxy must not send it. No line of this is net/http's,
// so that both cannot be wrong in the same way.
type message struct {
	method, target string              // of a request
	status         string              // of a response
	header         map[string][]string // by lower-case name
	body           string
}

// String is what a request is told apart by: "POST / hello", with the host unless it is the usual one.
func (m *message) String() string {
	s := m.method + " " + m.target
	if h := m.header["host"]; len(h) != 1 || h[0] != "x" {
		s += fmt.Sprintf(" of %q", h)
	}
	switch {
	case len(m.body) > 300:
		s += fmt.Sprintf(" %d bytes", len(m.body))
	case m.body != "":
		s += " " + m.body
	}
	return s
}

// errCut means that the other side closed the connection in the middle of a message.
var errCut = errors.New("broken off")

func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF || errors.Is(err, syscall.ECONNRESET) {
		return errCut
	}
	return err
}

// readStrict reads a request, or a response to a request of this method. The error is io.EOF if the
// connection has ended before it. With another error it returns what it has of the message.
func readStrict(r *bufio.Reader, method string) (*message, error) {
	m := new(message)
	if _, err := r.Peek(1); errors.Is(err, syscall.ECONNRESET) {
		return m, io.EOF
	} else if err != nil {
		return m, err
	}
	line, err := strictLine(r)
	if err != nil {
		return m, err
	}
	if method == "" {
		err = m.request(line)
	} else {
		err = m.response(line)
	}
	if err != nil {
		return m, err
	}
	if m.header, err = strictFields(r); err != nil {
		return m, err
	}
	if method == "" {
		if err = m.checkRequest(); err != nil {
			return m, err
		}
	}
	m.body, err = m.readBody(r, method)
	return m, err
}

// strictLine reads a line that ends in CRLF and has nothing in it that could be taken for an end.
func strictLine(r *bufio.Reader) (string, error) {
	s, err := r.ReadString('\n')
	if err != nil {
		return "", cut(err)
	}
	line, ok := strings.CutSuffix(s, "\r\n")
	if !ok || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return "", fmt.Errorf("bad line %q", s)
	}
	return line, nil
}

func (m *message) request(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" {
		return fmt.Errorf("bad request line %q", line)
	}
	m.method, m.target = parts[0], parts[1]
	if !isToken(m.method) {
		return fmt.Errorf("bad method in %q", line)
	}
	if !strings.HasPrefix(m.target, "/") && (m.target != "*" || m.method != "OPTIONS") || strings.Contains(m.target, "\t") {
		return fmt.Errorf("bad target in %q", line)
	}
	return nil
}

func (m *message) response(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" || len(rest) < 4 || rest[3] != ' ' || !isMadeOf(rest[:3], "0123456789") || rest[0] < '1' {
		return fmt.Errorf("bad status line %q", line)
	}
	m.status = rest[:3]
	return nil
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func isToken(s string) bool { return isMadeOf(s, "0123456789!#$%&'*+-.^_`|~"+letters) }

// isMadeOf reports whether s is not empty and has no other bytes than these.
func isMadeOf(s, bytes string) bool {
	for i := range len(s) {
		if strings.IndexByte(bytes, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// strictFields reads fields up to the empty line.
func strictFields(r *bufio.Reader) (map[string][]string, error) {
	h := make(map[string][]string)
	for {
		line, err := strictLine(r)
		if line == "" || err != nil {
			return h, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return h, fmt.Errorf("bad field %q", line)
		}
		// Programs behind CGI and its like cannot tell the two.
		if alike := strings.ToLower(strings.ReplaceAll(name, "_", "-")); strings.Contains(name, "_") && slices.Contains(framing, alike) {
			return h, fmt.Errorf("%q looks like %s", line, alike)
		}
		name = strings.ToLower(name)
		h[name] = append(h[name], strings.Trim(value, " \t"))
	}
}

// framing are the fields that say where a message ends, and how long the connection lasts.
var framing = []string{"content-length", "transfer-encoding", "host", "connection", "trailer"}

// checkRequest looks for what a proxy has to settle before it forwards a request.
func (m *message) checkRequest() error {
	if h := m.header["host"]; len(h) != 1 || strings.ContainsAny(h[0], " \t/\\?#@") {
		return fmt.Errorf("bad host %q", h)
	}
	for _, name := range []string{"keep-alive", "proxy-connection", "expect", "http2-settings", "proxy"} {
		if v := m.header[name]; v != nil {
			return fmt.Errorf("%s: %q is not for us", name, v)
		}
	}
	if v := m.header["te"]; v != nil && (len(v) > 1 || v[0] != "trailers") {
		return fmt.Errorf("te: %q is not for us", v)
	}
	upgrade := m.header["upgrade"]
	switch c := m.header["connection"]; {
	case len(upgrade) == 1 && strings.Contains(upgrade[0], "h2c"):
		return fmt.Errorf("upgrade: %q would be a way around the proxy", upgrade)
	case len(c) > 1, len(c) == 1 && !isMadeOf(c[0], letters+"-"), len(upgrade) > 1:
		return fmt.Errorf("connection: %q, upgrade: %q", c, upgrade)
	case (len(c) == 1 && strings.EqualFold(c[0], "upgrade")) != (len(upgrade) == 1):
		return fmt.Errorf("connection: %q, but upgrade: %q", c, upgrade)
	}
	return nil
}

// readBody reads the body by the one way to know its end that the header must leave.
func (m *message) readBody(r *bufio.Reader, method string) (string, error) {
	length, coding := m.header["content-length"], m.header["transfer-encoding"]
	if len(length)+len(coding) > 1 {
		return "", fmt.Errorf("content-length: %q, transfer-encoding: %q", length, coding)
	}
	if strings.HasPrefix(m.status, "1") || m.status == "204" {
		if len(length)+len(coding) > 0 {
			return "", fmt.Errorf("a %s with content-length: %q, transfer-encoding: %q", m.status, length, coding)
		}
		return "", nil
	}
	n := 0
	if len(length) > 0 {
		var err error
		if n, err = strconv.Atoi(length[0]); err != nil || strconv.Itoa(n) != length[0] {
			return "", fmt.Errorf("content-length: %q", length)
		}
	}
	if len(coding) > 0 && !strings.EqualFold(coding[0], "chunked") {
		return "", fmt.Errorf("transfer-encoding: %q", coding)
	}
	switch {
	case m.status == "304", method == "HEAD":
		return "", nil
	case len(coding) > 0:
		return readChunks(r)
	case len(length) == 0 && m.status != "":
		b, err := io.ReadAll(r)
		if errors.Is(err, syscall.ECONNRESET) && m.status >= "400" { // the client went on sending what nobody reads
			return string(b), nil
		}
		return string(b), cut(err)
	}
	b := make([]byte, n)
	n, err := io.ReadFull(r, b)
	return string(b[:n]), cut(err)
}

func readChunks(r *bufio.Reader) (string, error) {
	var body strings.Builder
	for {
		size, err := strictLine(r)
		if err != nil {
			return body.String(), err
		}
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil || !isMadeOf(size, "0123456789abcdefABCDEF") {
			return body.String(), fmt.Errorf("chunk size %q", size)
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(&body, r, int64(n)); err != nil {
			return body.String(), cut(err)
		}
		if end, err := strictLine(r); err != nil || end != "" {
			return body.String(), cmp.Or(err, fmt.Errorf("%q behind a chunk", end))
		}
	}
	trailers, err := strictFields(r)
	for _, name := range framing {
		if v, ok := trailers[name]; ok {
			err = cmp.Or(err, fmt.Errorf("trailer %s: %q", name, v))
		}
	}
	return body.String(), err
}
