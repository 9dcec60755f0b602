package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"longshore/internal/admin"
	"longshore/internal/dockertest"
)

// TestState asks a running longshore, one without an admin listener, and one that does not run.
func TestState(t *testing.T) {
	one := origin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "one") })
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+one)
	p.waitUp(1)
	p.get("localhost", "/")
	dockertest.Wait(t, "the request to be counted", func() bool {
		code, out, errs := command([]string{"state"}, p.env...)
		if code != 0 || errs != "" {
			t.Fatalf("exit %d, %q", code, errs)
		}
		_, row, _ := strings.Cut(out, "\n")
		return strings.Join(strings.Fields(row), " ") == "backends / "+one+" "+one+" up 1 0 0"
	})
	code, _, errs := command([]string{"state"}, "LONGSHORE_ADMIN=")
	if want := "LONGSHORE_ADMIN is empty: there is no admin listener to ask for the state\n"; code != 1 || errs != want {
		t.Errorf("without an admin listener: exit %d, %q, want 1, %q", code, errs, want)
	}
	if code, _, errs := command([]string{"state"}, "LONGSHORE_ADMIN="+reservePort(t)); code != 1 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "connection refused") {
		t.Errorf("of nobody: exit %d, %q, want 1 and why", code, errs)
	}
}

// TestPrintState shows a replica that is well, one that is not, a service without any, what is skipped, and a lost
// engine.
func TestPrintState(t *testing.T) {
	var b strings.Builder
	err := printState(&b, admin.State{
		Docker: admin.Link{Since: "2026-01-02T03:04:05Z", Error: "connection refused", Cure: "mount the directory"},
		Services: []admin.Service{
			{Name: "api", Routes: []string{"/api", "/v1"}},
			{Name: "web", Routes: []string{"/"}, Backends: []admin.Backend{
				{Name: "web-1", Addr: "172.18.0.3:5090", State: "up", Requests: 12, InFlight: 1},
				{Name: "web-2", State: "down", Failures: 3, Why: "exited (1)"},
			}},
		},
		Skipped: []admin.Skip{{Name: "db-1", Why: "no port"}},
	})
	const want = `
SERVICE  ROUTES     REPLICA  ADDRESS          STATE  REQUESTS  IN FLIGHT  FAILED  WHY
api      /api, /v1  -        -                -      -         -          -       no container
web      /          web-1    172.18.0.3:5090  up     12        1          0       
web      /          web-2    -                down   0         0          3       exited (1)

NOT USED  WHY
db-1      no port

the Docker engine is away since 2026-01-02T03:04:05Z: connection refused
mount the directory
`
	if got := "\n" + b.String(); err != nil || got != want {
		t.Errorf("%v, got%s\nwant%s", err, got, want)
	}
}
