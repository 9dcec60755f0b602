package discovery

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Sticky says how a client stays with a backend, in the words of nginx's sticky directive. It is
// comparable; the zero value is off.
type Sticky struct {
	text string

	Mode    StickyMode
	Cookie  string        // cookie: its name
	Expires time.Duration // cookie: 0: a session cookie
	Domain  string
	Path    string // cookie: empty: /
	Secure  bool
	HTTP    bool   // cookie: not for scripts (HttpOnly)
	Same    string // cookie: strict, lax, none or empty
	Lookup  string // route, learn: where a request says it, variables separated by spaces
	Create  string // learn: where a response says it
	Timeout time.Duration
	Most    int // learn: sessions that are remembered
}

// StickyMode is a way to know a client again.
type StickyMode uint8

const (
	StickyOff    StickyMode = iota
	StickyCookie            // a cookie of ours
	StickyRoute             // the request names the backend's route
	StickyLearn             // a session that the application made
)

// perMegabyte is how many sessions nginx keeps in a megabyte of a zone.
const perMegabyte = 4000

const stickyForms = `cookie NAME [expires=1h] [domain=D] [path=P] [httponly] [secure] [samesite=lax], route $cookie_NAME [$arg_NAME …], ` +
	`learn create=$upstream_cookie_NAME lookup=$cookie_NAME [zone=NAME:1m] [timeout=10m], or off`

var errSticky = errors.New("want " + stickyForms)

func (s Sticky) String() string { return s.text }

// MarshalText returns the text it was parsed from, with single spaces.
func (s Sticky) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// UnmarshalText parses a sticky directive without the word sticky, with or without the semicolon.
func (s *Sticky) UnmarshalText(b []byte) error {
	words := strings.Fields(strings.TrimSuffix(strings.TrimSpace(string(b)), ";"))
	if len(words) > 0 && words[0] == "sticky" {
		words = words[1:]
	}
	next := Sticky{text: strings.Join(words, " ")}
	var err error
	switch {
	case strings.ContainsAny(next.text, "\"'\\;{}"):
		err = errors.New("want no quotes, semicolons, braces and backslashes in it")
	case len(words) == 1 && words[0] == "off":
		next = Sticky{}
	case len(words) > 1 && words[0] == "cookie":
		err = next.parseCookie(words[1], words[2:])
	case len(words) > 1 && words[0] == "route":
		next.Mode, next.Lookup = StickyRoute, strings.Join(words[1:], " ")
		err = checkVariables(words[1:], "cookie_", "arg_", "http_")
	case len(words) > 1 && words[0] == "learn":
		err = next.parseLearn(words[1:])
	default:
		err = errSticky
	}
	if err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	*s = next
	return nil
}

func (s *Sticky) parseCookie(name string, words []string) error {
	if err := (&http.Cookie{Name: name, Value: "x"}).Valid(); err != nil {
		return fmt.Errorf("cookie name %q: want letters, digits and -._", name)
	}
	s.Mode, s.Cookie = StickyCookie, name
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "expires":
			if value == "max" { // nginx: until 2037
				value = "87600h"
			}
			s.Expires, err = ParseTime(value)
		case "domain":
			s.Domain = value
		case "path":
			s.Path = value
		case "httponly":
			s.HTTP = true
		case "secure":
			s.Secure = true
		case "samesite":
			if s.Same = strings.ToLower(value); s.Same != "strict" && s.Same != "lax" && s.Same != "none" {
				err = errors.New("want samesite=strict, lax or none")
			}
		default:
			err = fmt.Errorf("unknown parameter %q: %w", key, errSticky)
		}
		if err != nil {
			return err
		}
	}
	if err := (&http.Cookie{Name: name, Value: "x", Domain: s.Domain, Path: s.Path}).Valid(); err != nil {
		return errors.New("domain and path: " + strings.TrimPrefix(err.Error(), "http: "))
	}
	return nil
}

func (s *Sticky) parseLearn(words []string) error {
	s.Mode, s.Timeout, s.Most = StickyLearn, 10*time.Minute, perMegabyte
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "create":
			s.Create = value
			err = checkVariables([]string{value}, "upstream_cookie_", "upstream_http_")
		case "lookup":
			s.Lookup = value
			err = checkVariables([]string{value}, "cookie_", "arg_", "http_")
		case "zone":
			_, size, _ := strings.Cut(value, ":")
			var n Size
			bad := n.UnmarshalText([]byte(size))
			if s.Most = int(n >> 20 * perMegabyte); bad != nil || s.Most < 1 {
				err = errors.New("want zone=NAME:SIZE with a size of at least 1m")
			}
		case "timeout":
			s.Timeout, err = ParseTime(value)
		case "header": // it is learned when the header comes anyway
		default:
			err = fmt.Errorf("unknown parameter %q: %w", key, errSticky)
		}
		if err != nil {
			return err
		}
	}
	if s.Create == "" || s.Lookup == "" {
		return errSticky
	}
	return nil
}

// checkVariables wants nginx variables that begin with one of some words and go on with a name.
func checkVariables(vars []string, words ...string) error {
	for _, v := range vars {
		ok := false
		for _, w := range words {
			name, found := strings.CutPrefix(v, "$"+w)
			ok = ok || found && name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
		}
		if !ok {
			return fmt.Errorf("variable %q: want $%sNAME", v, strings.Join(words, "NAME or $"))
		}
	}
	return nil
}

// ParseTime takes Go's spelling, and nginx's: a bare number is seconds.
func ParseTime(text string) (time.Duration, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("time %q: want a duration such as 30s or 1h", text)
	}
	return d, nil
}
