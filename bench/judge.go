package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	usedWithin  = 200 * time.Millisecond // a replica after its start, and p99.9 while replicas remain
	afterOutage = 300 * time.Millisecond // p99.9 beyond the app's own downtime
	bucket      = 100 * time.Millisecond // of the timeline
)

// An outcome is what a take amounts to. It is what the reports show; durations are in milliseconds.
type outcome struct {
	Scenario  string `json:"scenario"`
	Contender string `json:"contender"`
	Run       int    `json:"run"`
	Note      string `json:"note,omitempty"`
	Invalid   string `json:"invalid,omitempty"` // why latencies say nothing of the proxy: the generator was late; empty: they do

	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`   // without those excused
	Excused  int            `json:"excused"`  // POSTs that were in flight on an app that exited
	Twice    int            `json:"twice"`    // POSTs that were executed more than once
	Causes   map[string]int `json:"causes"`   // of failures, excused or not
	Failures []failure      `json:"failures"` // each

	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
	Late float64 `json:"generator_late_p999_ms"`
	Slow float64 `json:"slow_max_ms,omitempty"` // longest of the requests that the app takes its time for, which are not in the above

	Outage   float64            `json:"outage_ms"` // longest time without any replica
	Replicas []part             `json:"replicas"`
	Uses     []use              `json:"uses"`
	Applied  map[string]spread  `json:"event_to_applied_ms,omitempty"`
	Parked   float64            `json:"parked,omitempty"`  // requests that Longshore let wait
	Retries  map[string]float64 `json:"retries,omitempty"` // by reason
	State    json.RawMessage    `json:"state,omitempty"`

	Verdicts []verdict `json:"verdicts"`

	Length   float64    `json:"length_ms"`
	Steps    []mark     `json:"steps"`
	Events   []mark     `json:"events"`
	Timeline []interval `json:"timeline"`
}

// A failure is one request that failed.
type failure struct {
	At      float64 `json:"at_ms"` // when it was due
	Took    float64 `json:"took_ms"`
	ID      int     `json:"id"`
	Method  string  `json:"method"`
	Cause   string  `json:"cause"`
	Via     string  `json:"via,omitempty"`
	Excused string  `json:"excused,omitempty"` // why
}

// A part is a replica's part in a take.
type part struct {
	Name    string   `json:"name"`
	Host    string   `json:"host"`
	Share   float64  `json:"share"`              // of the answers
	LastUse *float64 `json:"last_use,omitempty"` // its last answer, after the event that ended it
	Serves  bool     `json:"serves"`             // had requests at the end
	Should  bool     `json:"should_serve"`       // it ran then
}

// A use is the time from a replica's start or unpause to its first answer.
type use struct {
	Replica string   `json:"replica"`
	Event   string   `json:"event"`
	At      float64  `json:"at_ms"`
	Took    *float64 `json:"took,omitempty"` // nil: never
}

type spread struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	Max float64 `json:"max"`
}

// A verdict is one target.
type verdict struct {
	Target string `json:"target"`
	Met    bool   `json:"met"`
	Fatal  bool   `json:"fatal"`          // for Longshore: the bench ends with an error
	Void   bool   `json:"void,omitempty"` // it is about a latency, and those are not valid
	Got    string `json:"got"`
}

type mark struct {
	At   float64 `json:"at_ms"`
	Text string  `json:"text"`
}

// An interval is a bucket of the timeline: requests by when they were due.
type interval struct {
	By     map[string]int `json:"by"` // answers by replica
	Failed int            `json:"failed,omitempty"`
	Median float64        `json:"median_ms"`
	Max    float64        `json:"max_ms"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// judge computes. It changes the causes of shots that only look like a success.
func judge(tk *take) *outcome {
	o := &outcome{Scenario: tk.sc.Name, Contender: tk.who.Name, Run: tk.run, Note: tk.note, Requests: len(tk.shots),
		Causes: make(map[string]int), Length: ms(tk.length), State: tk.state}
	names := make(map[string]string)
	for _, r := range tk.replicas {
		names[r.Host] = r.Name
	}
	lives := livesOf(tk)

	took := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	late := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	answers := make(map[string]int)
	for i := range tk.shots {
		s := &tk.shots[i]
		late.RecordValue(max(1, s.Late.Microseconds()))
		executed := tk.executed[s.requestID()]
		if s.Method == "POST" && len(executed) > 1 {
			o.Twice++
		}
		if s.Cause == "" && names[s.Replica] == "" {
			s.Cause = "another service answered"
		}
		if s.Cause == "" && s.Method == "POST" && len(executed) == 0 {
			s.Cause = "answered, but not executed"
		}
		if s.Cause == "" {
			if s.Asked > 0 {
				o.Slow = max(o.Slow, ms(s.Took))
			} else {
				took.RecordValue(max(1, s.Took.Microseconds()))
			}
			answers[s.Replica]++
			continue
		}
		f := failure{At: ms(s.Due), Took: ms(s.Took), ID: s.ID, Method: s.Method, Cause: s.Cause, Via: tk.via[s.ID], Excused: excuse(tk, lives, *s)}
		o.Failures = append(o.Failures, f)
		o.Causes[s.Cause]++
		if f.Excused != "" {
			o.Excused++
		} else {
			o.Failed++
		}
	}
	at := func(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	o.P50, o.P99, o.P999, o.Max = at(took, 50), at(took, 99), at(took, 99.9), at(took, 100)
	o.Late = at(late, 99.9)
	if l := at(late, 99); l > 50 {
		o.Invalid = fmt.Sprintf("the generator was late: 1 %% of the requests by %.0f ms or more", l)
	}

	o.Outage = ms(outage(tk, lives))
	o.Uses = usesOf(tk, names)
	o.Replicas = partsOf(tk, lives, answers)
	o.Steps, o.Events = marksOf(tk, names)
	o.Timeline = timeline(tk, names)
	o.readLongshore(tk)
	o.Verdicts = verdictsOf(tk, o)
	return o
}

// A life is a time in which a replica accepts connections; To is zero while it lasts.
type life struct {
	Host     string
	From, To time.Duration // since the load's begin
	Gone     time.Duration // when the engine said that it was dead; zero: not
	Frozen   bool          // it ended by a pause
}

// livesOf follows the engine's events.
func livesOf(tk *take) []*life {
	var all []*life
	now := make(map[string]*life)
	last := make(map[string]*life)
	for _, e := range tk.events {
		at := e.Time.Sub(tk.begin)
		open := now[e.Host]
		switch {
		case e.Action == "start":
			now[e.Host] = &life{Host: e.Host, From: at + tk.sc.listenAfter()}
		case e.Action == "unpause":
			now[e.Host] = &life{Host: e.Host, From: at}
		case e.Action == "die" && last[e.Host] != nil && open == nil:
			last[e.Host].Gone = at
			continue
		case open != nil && (e.Action == "die" || e.Action == "pause" || e.Action == "kill" && (e.Signal == "15" || e.Signal == "9")):
			open.To, open.Frozen = at, e.Action == "pause"
			if e.Action == "die" {
				open.Gone = at
			}
			delete(now, e.Host)
			continue
		default:
			continue
		}
		all = append(all, now[e.Host])
		last[e.Host] = now[e.Host]
	}
	return all
}

// steady says whether a replica is to be counted on: one that crashes all the time is not.
func steady(tk *take, host string) bool {
	for _, r := range tk.replicas {
		if r.Host == host {
			return r.Name != flapper
		}
	}
	return false
}

// outage is the longest time of the load in which no replica accepted connections.
func outage(tk *take, lives []*life) (longest time.Duration) {
	var edges []time.Duration
	for _, l := range lives {
		if l.To != 0 {
			edges = append(edges, l.To)
		}
	}
	for _, from := range edges { // an outage begins with the end of a life
		if from < 0 || from > tk.length {
			continue
		}
		until := tk.length
		for _, l := range lives {
			if !steady(tk, l.Host) {
				continue
			}
			if l.From <= from && (l.To == 0 || l.To > from) {
				until = from
			}
			if l.From > from {
				until = min(until, l.From)
			}
		}
		longest = max(longest, until-from)
	}
	return longest
}

// excuse says why a failed POST may have failed: it was in flight on an app that exited. Then nobody
// can know whether it was executed, and a proxy must not send it again. Empty: there is no excuse.
//
// The evidence is, in this order: the app that exited has executed it; the proxy's log says that it was
// sent last to an app that exited meanwhile; for proxies without such a log, that an app exited
// meanwhile and the proxy did not say 503 or 504.
func excuse(tk *take, lives []*life, s shot) string {
	if s.Method != "POST" || s.Took >= answerTimeout { // nobody had to wait that long to know it
		return ""
	}
	// The signal comes before its event: an app can be gone some milliseconds before.
	const before = 50 * time.Millisecond
	exited := func(host string) bool {
		return slices.ContainsFunc(lives, func(l *life) bool {
			return l.Host == host && l.To != 0 && !l.Frozen && s.Due <= max(l.To, l.Gone) && s.end() >= l.To-before
		})
	}
	for _, host := range tk.executed[s.requestID()] {
		if exited(host) {
			return "executed by " + host + ", which exited"
		}
	}
	via, logged := tk.via[s.ID]
	hops := strings.Split(via, ", ")
	for _, r := range tk.replicas {
		if !exited(r.Host) {
			continue
		}
		if logged && s.Status == 502 && slices.ContainsFunc(r.Addrs, func(a string) bool { return strings.HasPrefix(hops[len(hops)-1], a+":") }) {
			return "sent to " + r.Host + ", which exited"
		}
		if !tk.who.Admin && s.Status != 503 && s.Status != 504 {
			return r.Host + " exited meanwhile"
		}
	}
	return ""
}

// usesOf finds the first answer after each start and unpause during the load.
func usesOf(tk *take, names map[string]string) (uses []use) {
	for i, e := range tk.events {
		at := e.Time.Sub(tk.begin)
		if at < 0 || at > tk.length || !steady(tk, e.Host) || e.Action != "start" && e.Action != "unpause" {
			continue
		}
		u := use{Replica: names[e.Host], Event: e.Action, At: ms(at)}
		if i+1 < len(tk.events) && e.Action == "unpause" && tk.events[i+1].Action == "die" {
			continue // a stop of a paused container
		}
		first := time.Duration(-1)
		for _, s := range tk.shots {
			if s.Cause == "" && s.Replica == e.Host && s.end() >= at && (first < 0 || s.end() < first) {
				first = s.end()
			}
		}
		if first >= 0 {
			took := ms(first - at)
			u.Took = &took
		}
		uses = append(uses, u)
	}
	return uses
}

// partsOf says what each replica did.
func partsOf(tk *take, lives []*life, answers map[string]int) (parts []part) {
	total := 0
	for _, n := range answers {
		total += n
	}
	final := min(time.Second, tk.length/8)
	for _, r := range tk.replicas {
		p := part{Name: r.Name, Host: r.Host, Share: float64(answers[r.Host]) / float64(max(1, total))}
		var latest *life
		for _, l := range lives {
			if l.Host == r.Host {
				latest = l
			}
		}
		var last time.Duration
		for _, s := range tk.shots {
			if s.Cause == "" && s.Replica == r.Host {
				last = max(last, s.end())
				p.Serves = p.Serves || s.end() > tk.length-final
			}
		}
		p.Should = latest != nil && latest.To == 0 && steady(tk, r.Host)
		if latest != nil && latest.To > 0 && latest.To < tk.length && answers[r.Host] > 0 {
			after := ms(last - latest.To)
			p.LastUse = &after
		}
		parts = append(parts, p)
	}
	return parts
}

func marksOf(tk *take, names map[string]string) (steps, events []mark) {
	for _, d := range tk.steps {
		steps = append(steps, mark{ms(d.Begin), d.Step})
	}
	for _, e := range tk.events {
		at := e.Time.Sub(tk.begin)
		if at < 0 || at > tk.length {
			continue
		}
		name := names[e.Host]
		if name == "" {
			name = "another service"
		}
		text := fmt.Sprintf("%s %s", e.Action, name)
		if e.Signal != "" {
			text += " with signal " + e.Signal
		}
		events = append(events, mark{ms(at), text})
	}
	return steps, events
}

func timeline(tk *take, names map[string]string) []interval {
	line := make([]interval, int(tk.length/bucket)+1)
	for i := range line {
		var took []float64
		line[i].By = make(map[string]int)
		for _, s := range tk.shots {
			if int(s.Due/bucket) != i {
				continue
			}
			if s.Cause != "" {
				line[i].Failed++
				continue
			}
			line[i].By[names[s.Replica]]++
			if s.Asked == 0 {
				took = append(took, ms(s.Took))
			}
		}
		if len(took) > 0 {
			line[i].Median, line[i].Max = median(took), slices.Max(took)
		}
	}
	return line
}

// readLongshore takes what only Longshore, and in part the reloading nginx, tell.
func (o *outcome) readLongshore(tk *take) {
	o.Applied = make(map[string]spread)
	for _, change := range []string{"add", "remove"} {
		if v := tk.applied.values(change, "event"); len(v) > 0 {
			o.Applied[change] = spread{len(v), median(v), slices.Max(v)}
		}
	}
	o.Retries = make(map[string]float64)
	for name, v := range tk.after {
		n := v - tk.before[name]
		if n == 0 {
			continue
		}
		if strings.HasPrefix(name, "longshore_parked_total{") {
			o.Parked += n
		}
		if labels, ok := strings.CutPrefix(name, "longshore_retries_total{"); ok {
			_, reason, _ := strings.Cut(labels, `reason="`)
			reason, _, _ = strings.Cut(reason, `"`)
			o.Retries[reason] += n
		}
	}
}

// verdictsOf compares with the targets.
func verdictsOf(tk *take, o *outcome) (vs []verdict) {
	add := func(target string, met, fatal bool, got string) {
		vs = append(vs, verdict{Target: target, Met: met, Fatal: fatal, Void: !fatal && o.Invalid != "", Got: got})
	}
	got := fmt.Sprintf("%d of %d", o.Failed, o.Requests)
	if o.Excused > 0 {
		got += fmt.Sprintf(", and %d POSTs that were in flight on an exiting app", o.Excused)
	}
	add("no request lost", o.Failed == 0, true, got)
	if tk.sc.Method == "POST" {
		add("no POST executed twice", o.Twice == 0, true, fmt.Sprint(o.Twice))
	}

	limit := usedWithin
	if tk.sc.Limit > 0 {
		limit = tk.sc.Limit
	}
	target := fmt.Sprintf("p99.9 under %d ms", limit.Milliseconds())
	if o.Outage > 0 {
		limit = time.Duration(o.Outage*1e6) + afterOutage
		target = fmt.Sprintf("p99.9 under %d ms, the app's own downtime and 300 ms", limit.Milliseconds())
	}
	add(target, o.P999 < ms(limit), false, fmt.Sprintf("%.0f ms", o.P999))

	if tk.sc.Slow {
		// One that was in flight on an app that exited begins again on another.
		limit := 2*slowly + usedWithin
		add(fmt.Sprintf("slow requests under %d ms, which is twice what they take, and 200 ms", limit.Milliseconds()),
			o.Slow < ms(limit), false, fmt.Sprintf("%.0f ms", o.Slow))
	}

	if len(o.Uses) > 0 {
		allowed := usedWithin + tk.sc.listenAfter()
		met, worst := true, 0.0
		var never []string
		for _, u := range o.Uses {
			if u.Took == nil {
				met = false
				never = append(never, u.Replica)
				continue
			}
			worst = max(worst, *u.Took)
			met = met && *u.Took < ms(allowed)
		}
		got := fmt.Sprintf("%.0f ms at most", worst)
		if len(never) > 0 {
			got += "; never: " + strings.Join(never, ", ")
		}
		add(fmt.Sprintf("each new, restarted or unpaused replica used within %d ms", allowed.Milliseconds()), met, false, got)
	}

	var idle []string
	for _, p := range o.Replicas {
		if p.Should && !p.Serves {
			idle = append(idle, p.Name)
		}
	}
	got = "all"
	if len(idle) > 0 {
		got = "without requests: " + strings.Join(idle, ", ")
	}
	add("all replicas that run at the end serve", len(idle) == 0, true, got)
	return vs
}

// causesText lists the most frequent cause first.
func causesText(causes map[string]int) string {
	names := slices.SortedFunc(maps.Keys(causes), func(a, b string) int {
		if causes[a] != causes[b] {
			return causes[b] - causes[a]
		}
		return strings.Compare(a, b)
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%d × %s", causes[n], n)
	}
	return strings.Join(names, ", ")
}
