package metrics

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"longshore/discovery"
	"longshore/internal/docs"
	"longshore/proxy"
)

// TestScrape: two backends of one name, as while a container is recreated, are one series; events land
// in their histogram.
func TestScrape(t *testing.T) {
	r := proxy.NewRouter(nil, slog.New(slog.DiscardHandler))
	var s discovery.State
	svc := discovery.Service{Name: "web", Routes: []discovery.Route{{Path: "/"}}}
	for _, id := range []string{"old", "new"} {
		svc.Endpoints = append(svc.Endpoints, discovery.Endpoint{Key: discovery.Key{ID: id}, Name: "web-1", Addr: "127.0.0.1:1", Server: discovery.Server{Weight: 1}})
	}
	s.Services = []discovery.Service{svc}
	r.Apply(s)
	m := New(r, func() discovery.Link { return discovery.Link{Trouble: discovery.Stale} })
	m.Applied(true, 3*time.Millisecond)
	m.Applied(false, time.Hour)

	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	body := rec.Body.String()
	for _, want := range []string{
		`longshore_backend_up{backend="web-1",service="web"} 0`,
		`longshore_docker_connected 0`,
		`longshore_docker_trouble{kind="stale"} 1`,
		`longshore_docker_trouble{kind="away"} 0`,
		`longshore_event_to_applied_seconds_bucket{change="add",le="0.01"} 1`,
		`longshore_event_to_applied_seconds_bucket{change="remove",le="5"} 0`,
		`longshore_event_to_applied_seconds_count{change="remove"} 1`,
	} {
		if strings.Count(body, want+"\n") != 1 {
			t.Errorf("/metrics has %d times %s", strings.Count(body, want), want)
		}
	}
}

// TestReference keeps the table of metrics in docs/reference.md in step with the code.
func TestReference(t *testing.T) {
	m := New(proxy.NewRouter(nil, slog.New(slog.DiscardHandler)), nil)
	descs := make(chan *prometheus.Desc, 100)
	m.Describe(descs)
	m.applied.Describe(descs)
	close(descs)
	parts := regexp.MustCompile(`fqName: "(.*?)", help: "(.*?)", .*variableLabels: \{(.*?)\}`)
	var rows []string
	for d := range descs {
		p := parts.FindStringSubmatch(d.String())
		if p == nil {
			t.Fatalf("cannot read %s", d)
		}
		labels := ""
		if p[3] != "" {
			labels = "{" + p[3] + "}"
		}
		rows = append(rows, fmt.Sprintf("| `%s%s` | %s |\n", p[1], labels, p[2]))
	}
	slices.Sort(rows)
	docs.Check(t, "reference.md", "metrics", "| metric | meaning |\n|---|---|\n"+strings.Join(rows, ""))
}
