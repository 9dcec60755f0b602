// Package admin serves what operators and orchestrators ask: health, readiness, metrics, state.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"longshore/discovery"
	"longshore/proxy"
)

// A Handler answers on the admin listener.
type Handler struct {
	Router   *proxy.Router
	Link     func() discovery.Link // nil: no Docker
	Metrics  http.Handler
	stopping atomic.Bool
}

// Stopping makes /readyz fail, so that who asks it sends no more requests.
func (h *Handler) Stopping() { h.stopping.Store(true) }

// Mux routes the admin listener.
func (h *Handler) Mux() *http.ServeMux {
	mux := Alive()
	mux.HandleFunc("GET /readyz", h.ready)
	mux.HandleFunc("GET /api/state", h.state)
	mux.Handle("GET /metrics", h.Metrics)
	return mux
}

// Alive answers /healthz alone.
func Alive() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// ready answers 200 from the first applied state on, also while the daemon is away.
func (h *Handler) ready(w http.ResponseWriter, _ *http.Request) {
	switch {
	case h.stopping.Load():
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case !h.Router.Applied():
		text := "waiting for the first state"
		if h.Link != nil && h.Link().Err != nil {
			text += ": " + h.Link().Why()
		}
		http.Error(w, text, http.StatusServiceUnavailable)
	case h.Link != nil && !h.Link().Connected:
		l := h.Link()
		fmt.Fprintf(w, "ready, without the docker daemon since %s: %s\n", l.Since.Format(time.RFC3339), l.Why())
	default:
		fmt.Fprintln(w, "ready")
	}
}

// A State is the answer of /api/state.
type State struct {
	Docker   Link      `json:"docker"`
	Services []Service `json:"services"`
	Skipped  []Skip    `json:"skipped"`
}

// A Link is how it stands with the Docker engine.
type Link struct {
	Connected bool   `json:"connected"`
	Since     string `json:"since,omitempty"` // RFC 3339; empty: there is no engine
	Error     string `json:"error,omitempty"`
	Cure      string `json:"cure,omitempty"`
}

// A Service is a set of interchangeable backends.
type Service struct {
	Name     string    `json:"name"`
	Routes   []string  `json:"routes"`
	Balancer string    `json:"balancer"`
	Parked   int       `json:"parked"` // requests that wait
	Backends []Backend `json:"backends"`
}

// A Backend is a container of a service, on one port.
type Backend struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Addr     string `json:"addr"`
	State    string `json:"state"`
	Weight   int    `json:"weight"`
	InFlight int64  `json:"inflight"`
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
	Why      string `json:"why"` // it is not up; empty: it is
}

// A Skip is a container that is not used.
type Skip struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

// state answers with everything that is known, for people and scripts.
func (h *Handler) state(w http.ResponseWriter, _ *http.Request) {
	s := State{Services: []Service{}, Skipped: []Skip{}}
	if h.Link != nil {
		l := h.Link()
		s.Docker.Connected = l.Connected
		if !l.Since.IsZero() {
			s.Docker.Since = l.Since.Format(time.RFC3339Nano)
		}
		if l.Err != nil {
			s.Docker.Error, s.Docker.Cure = l.Err.Error(), l.Cure
		}
	}
	t := h.Router.Table()
	for _, svc := range t.Services() {
		v := svc.View()
		js := Service{Name: v.Name, Routes: []string{}, Balancer: v.Balancer, Parked: v.Parked, Backends: []Backend{}}
		for _, r := range v.Routes {
			js.Routes = append(js.Routes, r.String())
		}
		for _, b := range v.Backends {
			js.Backends = append(js.Backends, Backend{b.ID, b.Name, b.Addr, b.State, b.Weight, b.InFlight, b.Requests, b.Failed(), b.Why})
		}
		s.Services = append(s.Services, js)
	}
	for _, sk := range t.Skipped() {
		s.Skipped = append(s.Skipped, Skip{sk.ID, sk.Name, sk.Why})
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(s)
}
