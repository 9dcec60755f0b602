package proxy

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// A stickiness finds the backend that a client stays with. It does not change after it is built.
type stickiness struct {
	discovery.Sticky
	tokens map[string]*member // by what stands in a cookie, a route or a session
	names  map[*Backend]string
	learnt *sessions
}

// newStickiness prepares what a service's settings ask for; nil: nothing.
func newStickiness(s *Service, secret []byte) *stickiness {
	cfg := s.spec.Settings.Sticky
	if cfg.Mode == discovery.StickyOff {
		return nil
	}
	st := &stickiness{Sticky: cfg, tokens: make(map[string]*member), names: make(map[*Backend]string), learnt: &s.group.learnt}
	for i := range s.members {
		m := &s.members[i]
		if m.Backend == nil {
			continue
		}
		// A name stands for whoever has it: container-number 1 of a service, recreated or not.
		token := cmp.Or(m.endpoint.Route, m.endpoint.Name)
		if cfg.Mode == discovery.StickyCookie {
			token = sign(secret, s.spec.Name+"/"+token)
		}
		if other := st.tokens[token]; other == nil || !other.takesBound() {
			st.tokens[token] = m
		}
		st.names[m.Backend] = token
	}
	return st
}

// sign makes of a name what a client can neither read nor make up.
func sign(secret []byte, name string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(name))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:15])
}

// takesBound reports whether a member gets the requests that are bound to it: it is well, or marked to
// drain, which means just that. One that Docker stops, or that is paused, does not.
func (m *member) takesBound() bool {
	e := m.endpoint
	return m.Backend != nil && !e.Stopping && !e.Paused && m.status.State == health.Up
}

// have reserves the backend that a request is bound to; nil: it cannot be had.
func (st *stickiness) have(token string) *member {
	m := st.tokens[token]
	if m == nil || !m.takesBound() || !m.Reserve(int64(m.endpoint.MaxConns)) {
		return nil
	}
	return m
}

// token is what a request says of where it is bound.
func (st *stickiness) token(in inbound) string {
	switch st.Mode {
	case discovery.StickyCookie:
		return cookie(in, st.Cookie)
	case discovery.StickyLearn:
		return st.learnt.find(value(in, st.Lookup), st.Timeout)
	}
	for v := range strings.FieldsSeq(st.Lookup) {
		id := value(in, v)
		if id == "" {
			continue
		}
		if st.tokens[id] != nil {
			return id
		}
		return id[strings.LastIndexByte(id, '.')+1:] // as in JSESSIONID=abc.route
	}
	return ""
}

// value is that of a variable of the request: "$cookie_name".
func value(in inbound, v string) string {
	kind, name, _ := strings.Cut(strings.TrimPrefix(v, "$"), "_")
	return variable(in, kind, name)
}

// answered binds the client to the backend that has answered.
func (st *stickiness) answered(in inbound, b *member, h http.Header) {
	if line := st.setCookie(in, b); line != "" {
		h.Add("Set-Cookie", line)
	}
	if token := st.names[b.Backend]; token != "" && st.Mode == discovery.StickyLearn {
		st.learnt.add(st.created(h), token, st.Most, st.Timeout)
	}
}

// setCookie is the Set-Cookie that binds the client to the backend that has answered; empty: none is needed.
func (st *stickiness) setCookie(in inbound, b *member) string {
	token := st.names[b.Backend]
	if st.Mode != discovery.StickyCookie || token == "" || cookie(in, st.Cookie) == token {
		return ""
	}
	c := http.Cookie{
		Name: st.Cookie, Value: token, Domain: st.Domain, Path: cmp.Or(st.Path, "/"), HttpOnly: st.HTTP, Secure: st.Secure,
		SameSite: map[string]http.SameSite{"strict": http.SameSiteStrictMode, "lax": http.SameSiteLaxMode, "none": http.SameSiteNoneMode}[st.Same],
	}
	if st.Expires > 0 {
		c.MaxAge, c.Expires = int(st.Expires.Seconds()), time.Now().Add(st.Expires)
	}
	return c.String()
}

// created is the session that a response begins; empty: none.
func (st *stickiness) created(h http.Header) string {
	kind, name, _ := strings.Cut(strings.TrimPrefix(st.Create, "$upstream_"), "_")
	if kind == "http" {
		return h.Get(strings.ReplaceAll(name, "_", "-"))
	}
	for _, line := range h["Set-Cookie"] {
		if c, err := http.ParseSetCookie(line); err == nil && c.Name == name {
			return c.Value
		}
	}
	return ""
}

// sessions are the ones that a service's applications have made, and where.
type sessions struct {
	mu    sync.Mutex // guards the following
	all   map[string]*session
	swept time.Time
}

type session struct {
	token string
	used  time.Time
}

func (s *sessions) find(id string, timeout time.Duration) string {
	if id == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[id]
	if one == nil || time.Since(one.used) > timeout {
		return ""
	}
	one.used = time.Now()
	return one.token
}

func (s *sessions) add(id, token string, most int, timeout time.Duration) {
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.all == nil {
		s.all = make(map[string]*session)
	}
	if len(s.all) >= most || now.Sub(s.swept) > timeout {
		s.sweepLocked(now, most, timeout)
	}
	s.all[id] = &session{token, now}
}

// sweepLocked drops sessions that are over, and if that makes no room a tenth of the others, as they come.
func (s *sessions) sweepLocked(now time.Time, most int, timeout time.Duration) {
	s.swept = now
	for id, one := range s.all {
		if now.Sub(one.used) > timeout {
			delete(s.all, id)
		}
	}
	for id := range s.all {
		if len(s.all) < most-most/10 {
			return
		}
		delete(s.all, id)
	}
}
