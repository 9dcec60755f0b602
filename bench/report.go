package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A report is a run of dynamic.
type report struct {
	Rate     int               `json:"rate"`
	Quick    bool              `json:"quick"`
	Compose  string            `json:"compose"`
	Began    time.Time         `json:"began"`
	Took     time.Duration     `json:"took_ns"`
	Versions map[string]string `json:"versions"`
	Skipped  []string          `json:"skipped,omitempty"`
	Errors   []string          `json:"errors,omitempty"` // what could not be played
	Outcomes []*outcome        `json:"outcomes"`
}

// write writes the three forms into dir.
func (r *report) write(dir string) error {
	for name, render := range map[string]func(io.Writer) error{
		"report.md": r.markdown, "report.html": r.html,
		"report.json": func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", " ")
			return enc.Encode(r)
		},
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := render(f); err != nil {
			f.Close()
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// verdict is an error if Longshore has lost a request or left a replica without any, or if something
// that was asked for is not known.
func (r *report) verdict() error {
	var bad []string
	for _, o := range r.Outcomes {
		if o.Contender != "longshore" {
			continue
		}
		for _, v := range o.Verdicts {
			if v.Fatal && !v.Met {
				bad = append(bad, fmt.Sprintf("%s: %s: %s", o.Scenario, v.Target, v.Got))
			}
		}
	}
	bad = append(bad, r.Errors...)
	if len(bad) > 0 {
		return fmt.Errorf("targets not met:\n  %s", strings.Join(bad, "\n  "))
	}
	return nil
}

// A chapter is a scenario with all its outcomes, for the templates.
type chapter struct {
	scenario
	Outcomes []*outcome
}

func (r *report) Chapters() (cs []chapter) {
	for _, sc := range scenarios {
		c := chapter{scenario: sc}
		for _, o := range r.Outcomes {
			if o.Scenario == sc.Name {
				c.Outcomes = append(c.Outcomes, o)
			}
		}
		if len(c.Outcomes) > 0 {
			cs = append(cs, c)
		}
	}
	return cs
}

// Contenders are those of which there is an outcome, in the order of their table.
func (r *report) Contenders() (names []string) {
	for _, c := range contenders {
		if slices.ContainsFunc(r.Outcomes, func(o *outcome) bool { return o.Contender == c.Name }) {
			names = append(names, c.Name)
		}
	}
	return names
}

// Failed sums up the runs of a contender: "0", or "30 + 2 excused"; empty: it was not played.
func (c chapter) Failed(contender string) string {
	failed, excused, seen := 0, 0, false
	for _, o := range c.Outcomes {
		if o.Contender == contender {
			failed, excused, seen = failed+o.Failed, excused+o.Excused, true
		}
	}
	switch {
	case !seen:
		return ""
	case excused > 0:
		return fmt.Sprintf("%d + %d excused", failed, excused)
	}
	return fmt.Sprint(failed)
}

// Conditions says how it was measured, in a line.
func (r *report) Conditions() string {
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		v := r.Versions[name]
		if !strings.Contains(v, name) && !strings.Contains(strings.ToLower(v), name) {
			v = name + " " + v
		}
		versions = append(versions, v)
	}
	quick := ""
	if r.Quick {
		quick = " Quick run: shorter scenarios."
	}
	return fmt.Sprintf("%d requests/s, each on a connection of its own, latency from the time it was due. Began %s, took %s, %s; %s.%s",
		r.Rate, r.Began.Format("2006-01-02 15:04"), r.Took.Round(time.Second), r.Compose, strings.Join(versions, "; "), quick)
}

// Shares are the replicas' parts of the answers: "1: 50 %, 2: 50 %".
func (o *outcome) Shares() string {
	var all []string
	for _, p := range o.Replicas {
		all = append(all, fmt.Sprintf("%s: %.0f %%", p.Name, 100*p.Share))
	}
	return strings.Join(all, ", ")
}

// FirstUse is the longest time until a new replica was used.
func (o *outcome) FirstUse() string {
	if len(o.Uses) == 0 {
		return ""
	}
	worst, never := 0.0, 0
	for _, u := range o.Uses {
		if u.Took == nil {
			never++
		} else {
			worst = max(worst, *u.Took)
		}
	}
	switch {
	case never == len(o.Uses):
		return "never"
	case never > 0:
		return fmt.Sprintf("%.0f ms, %d of %d never", worst, never, len(o.Uses))
	}
	return fmt.Sprintf("%.0f ms", worst)
}

// LastUse is the latest answer of an old replica, after the event that ended it.
func (o *outcome) LastUse() string {
	var latest *float64
	for _, p := range o.Replicas {
		if p.LastUse != nil && (latest == nil || *p.LastUse > *latest) {
			latest = p.LastUse
		}
	}
	if latest == nil {
		return ""
	}
	return fmt.Sprintf("%+.0f ms", *latest)
}

func (o *outcome) CausesText() string { return causesText(o.Causes) }

// AppliedText is the median and the longest time from an event until it was applied, where it is told.
func (o *outcome) AppliedText() string {
	var all []string
	for _, change := range slices.Sorted(maps.Keys(o.Applied)) {
		s := o.Applied[change]
		all = append(all, fmt.Sprintf("%s %.1f / %.1f ms", change, s.P50, s.Max))
	}
	return strings.Join(all, ", ")
}

func (r *report) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Requests lost while containers change\n\n%s\n\n", r.Conditions())
	names := r.Contenders()
	fmt.Fprintf(&b, "Failed requests:\n\n| scenario | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, c := range r.Chapters() {
		fmt.Fprintf(&b, "| %s |", c.Name)
		for _, name := range names {
			fmt.Fprintf(&b, " %s |", c.Failed(name))
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprint(&b, "\nExcused: POSTs that were in flight on an app that exited under them.\n")
	for _, s := range slices.Concat(r.Skipped, r.Errors) {
		fmt.Fprintf(&b, "Left out: %s\n", s)
	}
	for _, c := range r.Chapters() {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", c.Name, upperFirst(c.What))
		fmt.Fprint(&b, "| proxy | requests | failed | why | p50 ms | p99 ms | p99.9 ms | max ms | new replica used after | old one used until | shares | event to applied, median / max |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
		for _, o := range c.Outcomes {
			fmt.Fprintf(&b, "| %s | %d | %d | %s | %.1f | %.1f | %.1f | %.1f | %s | %s | %s | %s |\n", o.Contender, o.Requests, o.Failed, o.CausesText(),
				o.P50, o.P99, o.P999, o.Max, o.FirstUse(), o.LastUse(), o.Shares(), o.AppliedText())
		}
		for _, o := range c.Outcomes {
			if o.Note != "" {
				fmt.Fprintf(&b, "\n%s: %s.\n", o.Contender, o.Note)
			}
			if o.Invalid != "" {
				fmt.Fprintf(&b, "\n%s: latencies are not valid: %s.\n", o.Contender, o.Invalid)
			}
			if o.Contender != "longshore" {
				continue
			}
			fmt.Fprintln(&b, "\nTargets for Longshore:")
			for _, v := range o.Verdicts {
				fmt.Fprintf(&b, "- %s: **%s** (%s)\n", v.Target, v.Word(), v.Got)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Word is met, not met or not valid.
func (v verdict) Word() string {
	switch {
	case v.Void:
		return "not valid"
	case v.Met:
		return "met"
	}
	return "not met"
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

//go:embed report.html
var page string

func (r *report) html(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{"chart": newChart, "upper": upperFirst}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, r)
}

// Second is when the request was due.
func (f failure) Second() string { return fmt.Sprintf("%.3f", f.At/1000) }
