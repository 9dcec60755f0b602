package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"longshore/internal/admin"
	"longshore/internal/config"
)

// showState prints what /api/state says of the longshore that runs with the same environment, as tables. In the
// image, where there is no other program, it is called by docker exec.
func showState(ctx context.Context, cfg config.Config, stdout, stderr io.Writer) int {
	if cfg.Admin == "" {
		fmt.Fprintln(stderr, "LONGSHORE_ADMIN is empty: there is no admin listener to ask for the state")
		return exitFailed
	}
	body, err := ask(ctx, cfg, "/api/state")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	defer body.Close()
	var s admin.State
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		fmt.Fprintln(stderr, "/api/state:", err)
		return exitFailed
	}
	if err := printState(stdout, s); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return exitOK
}

// printState writes the services with their replicas, then what is not used, then what is wrong with the engine.
func printState(w io.Writer, s admin.State) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tROUTES\tREPLICA\tADDRESS\tSTATE\tREQUESTS\tIN FLIGHT\tFAILED\tWHY")
	for _, svc := range s.Services {
		routes := cmp.Or(strings.Join(svc.Routes, ", "), "-")
		if len(svc.Backends) == 0 {
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t-\t-\tno container\n", svc.Name, routes)
		}
		for _, b := range svc.Backends {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", svc.Name, routes, b.Name, cmp.Or(b.Addr, "-"), b.State, b.Requests, b.InFlight, b.Failures, b.Why)
		}
	}
	if len(s.Skipped) > 0 {
		fmt.Fprintln(t, "\nNOT USED\tWHY")
		for _, skip := range s.Skipped {
			fmt.Fprintf(t, "%s\t%s\n", skip.Name, skip.Why)
		}
	}
	if d := s.Docker; d.Since != "" && !d.Connected {
		fmt.Fprintf(t, "\nthe Docker engine is away since %s: %s\n", d.Since, d.Error)
		if d.Cure != "" {
			fmt.Fprintln(t, d.Cure)
		}
	}
	return t.Flush()
}
