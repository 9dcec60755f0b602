package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A balanceReport is a run of balance.
type balanceReport struct {
	Rate    int           `json:"rate"`
	Seconds int           `json:"seconds"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Scores  []*score      `json:"scores"`
}

// A score is what came of one run.
type score struct {
	Replicas int    `json:"replicas"`
	Conduct  string `json:"conduct"` // of the first
	rival
	Invalid string `json:"invalid,omitempty"` // why the generator was the limit; empty: it was not

	Requests int            `json:"requests"`
	Errors   float64        `json:"errors"` // share
	Causes   map[string]int `json:"causes,omitempty"`
	P50      float64        `json:"p50_ms"` // of what was answered, as the others
	P99      float64        `json:"p99_ms"`
	P999     float64        `json:"p999_ms"`
	Max      float64        `json:"max_ms"`
	Late     float64        `json:"generator_late_p99_ms"`
	Shares   []float64      `json:"shares"`                 // of the attempts, as each replica has counted them
	FirstUse *float64       `json:"first_use_ms,omitempty"` // of one that joins late, since then
	Never    bool           `json:"never_used,omitempty"`   // likewise
}

func newScore(n int, c conduct, who rival, p *plot, shots []shot) *score {
	s := &score{Replicas: n, Conduct: c.Name, rival: who, Causes: make(map[string]int)}
	took := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	late := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	failed := 0
	for _, shot := range shots {
		if shot.Due < warmUp {
			continue
		}
		s.Requests++
		late.RecordValue(max(1, shot.Late.Microseconds()))
		if shot.Cause != "" {
			failed++
			s.Causes[shot.Cause]++
			continue
		}
		took.RecordValue(max(1, shot.Took.Microseconds()))
	}
	at := func(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	s.P50, s.P99, s.P999, s.Max = at(took, 50), at(took, 99), at(took, 99.9), at(took, 100)
	s.Errors = float64(failed) / float64(max(1, s.Requests))
	if s.Late = at(late, 99); s.Late > ms(meanTime) || s.Causes[notSent] > 0 {
		s.Invalid = fmt.Sprintf("the generator was late: 1 %% of the requests by %.0f ms or more", s.Late)
	}
	total := int64(0)
	for _, r := range p.replicas {
		total += r.seen.Load()
	}
	for _, r := range p.replicas {
		s.Shares = append(s.Shares, float64(r.seen.Load())/float64(max(1, total)))
	}
	if c.Joins {
		if first := time.Duration(p.replicas[0].first.Load()); first > 0 {
			after := ms(first - p.joins)
			s.FirstUse = &after
		} else {
			s.Never = true
		}
	}
	return s
}

func (s *score) String() string {
	return fmt.Sprintf("p99 %6.1f ms, %4.1f %% errors, shares %s", s.P99, 100*s.Errors, s.SharesText()) + remarks(s)
}

// SharesText has the first replica's share first.
func (s *score) SharesText() string {
	var all []string
	for _, share := range s.Shares {
		all = append(all, fmt.Sprintf("%.1f", 100*share))
	}
	text := strings.Join(all, " / ") + " %"
	switch {
	case s.Never:
		text += ", not used in this run"
	case s.FirstUse != nil:
		text += fmt.Sprintf(", used after %.0f ms", *s.FirstUse)
	}
	return text
}

// write prints Markdown, and writes it and JSON into dir, if there is one.
func (r *balanceReport) write(dir string) error {
	text := r.markdown()
	if _, err := io.WriteString(os.Stdout, text); err != nil || dir == "" {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "balance.md"), []byte(text), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "balance.json"), data, 0o644)
}

func (r *balanceReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Balancing in front of replicas of which one is not like the others\n\n")
	fmt.Fprintf(&b, "%d requests/s for %d s a run, each on a connection of its own, latency of what was answered, from the time it was due. "+
		"A healthy replica takes %v on average, spread exponentially; a request takes as long in every run. "+
		"Keys of the policies that hash are %d, skewed (Zipf, 1.1), for ip_hash each from a network of its own; "+
		"where they go depends on the replicas' ports, and so differs from run to run with Longshore and nginx's consistent. "+
		"Shares are of the attempts, as the replicas count them, the one that is different first. "+
		"Both proxies have their defaults: nginx (one worker) leaves a replica out for 10 s after one connection error, and takes neither a 500 nor a wait of "+
		"less than 60 s for a failure; Longshore looks every 2 s whether a replica accepts connections, every 50 to 100 ms while it does not, "+
		"and waits 60 s too. "+
		"nginx's least_time is left out, since it needs a subscription. Began %s, took %s.\n",
		r.Rate, r.Seconds, meanTime, keys, r.Began.Format("2006-01-02 15:04"), r.Took.Round(time.Second))
	var last *score
	for _, s := range r.Scores {
		if last == nil || s.Replicas != last.Replicas || s.Conduct != last.Conduct {
			i := slices.IndexFunc(conducts, func(c conduct) bool { return c.Name == s.Conduct })
			fmt.Fprintf(&b, "\n## %d replicas: %s\n\nThe first %s.\n\n", s.Replicas, s.Conduct, conducts[i].What)
			fmt.Fprint(&b, "| proxy | policy | p50 ms | p99 ms | p99.9 ms | errors | shares |\n|---|---|---|---|---|---|---|\n")
		}
		last = s
		policy := s.Policy
		if s.Default {
			policy = "**" + policy + "**"
		}
		times := fmt.Sprintf("%.1f | %.1f | %.1f", s.P50, s.P99, s.P999)
		if s.Errors == 1 {
			times = " | | " // nothing was answered
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.1f %% | %s |\n", s.Proxy, policy, times, 100*s.Errors, s.SharesText())
		if s.Invalid != "" {
			fmt.Fprintf(&b, "| | not valid: %s | | | | | |\n", s.Invalid)
		}
	}
	if gs := r.goals(); len(gs) > 0 {
		fmt.Fprint(&b, "\n## Targets for Longshore's default policy\n\n")
		for _, g := range gs {
			fmt.Fprintf(&b, "- %s: **%s** (%s)\n", g.Target, g.Word(), g.Got)
		}
	}
	return b.String()
}

// A goal is what the default policy must reach.
type goal struct {
	verdict
	Unknown string // why nobody can say: a run was not valid; empty: one can
}

// Word is met, not met or not known.
func (g goal) Word() string {
	if g.Unknown != "" {
		return "not known"
	}
	return g.verdict.Word()
}

// goals compares the default policy with its targets, as far as what that takes was played.
func (r *balanceReport) goals() (gs []goal) {
	played := func(n int, conduct string) *score {
		for _, s := range r.Scores {
			if s.Replicas == n && s.Conduct == conduct && s.Proxy == "longshore" && s.Default {
				return s
			}
		}
		return nil
	}
	if well, stalled := played(3, "healthy"), played(3, "stalled"); well != nil && stalled != nil {
		gs = append(gs, goal{Unknown: well.Invalid + stalled.Invalid, verdict: verdict{
			Target: "with one of 3 replicas stalled for half the run, p99 under twice that of healthy ones", Fatal: true,
			Met: stalled.P99 < 2*well.P99 && stalled.Errors == 0,
			Got: fmt.Sprintf("%.1f ms, healthy %.1f ms, %.1f %% errors", stalled.P99, well.P99, 100*stalled.Errors) + remarks(well, stalled),
		}})
	}
	for _, s := range r.Scores {
		if s == played(s.Replicas, "failing") {
			fair := 1 / float64(s.Replicas)
			gs = append(gs, goal{Unknown: s.Invalid, verdict: verdict{
				Target: fmt.Sprintf("one of %d replicas that fails in 1 ms gets no more than its fair share, %.1f %%", s.Replicas, 100*fair), Fatal: true,
				Met: s.Shares[0] <= fair, Got: fmt.Sprintf("%.1f %%", 100*s.Shares[0]) + remarks(s),
			}})
		}
	}
	return gs
}

// remarks say why runs are not valid.
func remarks(ss ...*score) (text string) {
	for _, s := range ss {
		if s.Invalid != "" {
			text += "; not valid: " + s.Invalid
		}
	}
	return text
}

// verdict is an error if a target is not met, or nobody can say whether it is.
func (r *balanceReport) verdict() error {
	var bad []string
	for _, g := range r.goals() {
		if word := g.Word(); word != "met" {
			bad = append(bad, fmt.Sprintf("%s: %s: %s", word, g.Target, g.Got))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("targets:\n  %s", strings.Join(bad, "\n  "))
	}
	return nil
}
