package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// A throughputReport is a run of throughput.
type throughputReport struct {
	Rounds, Seconds int
	Began           time.Time
	Took            time.Duration
	Versions, Notes []string
	Results         []*result
}

// A result is what came of a work.
type result struct {
	work
	Rows []*row
}

// A row is a peer's part of it.
type row struct {
	Key, Name string
	Base      int       // index of the row that it is compared with
	Samples   []*sample // by round; nil: there is none
	Memory    *footprint
	Failed    []string // why there is none
}

// A footprint is resident memory, in bytes.
type footprint struct {
	Rest  int64   // after the start and a request
	Idle  int     // how many idle connections there were
	Each  float64 // what each added, when that had settled
	Later float64 // some seconds later
}

func (r *row) fail(err error) { r.Failed = append(r.Failed, err.Error()) }

// median is that of the rounds that count; not a number if there is none.
func (r *row) median(of func(*sample) float64) float64 {
	var all []float64
	for _, s := range r.Samples {
		if s != nil {
			all = append(all, of(s))
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	return median(all)
}

// compared is the median of the ratios to the base, round by round, so that the machine's changing speed cancels
// out. A round counts if both have one. For memory it is what a connection adds, in kilobytes.
func (r *result) compared(i int) float64 {
	me, base := r.Rows[i], r.Rows[r.Rows[i].Base]
	if me.Memory != nil {
		return me.Memory.Each / 1024
	}
	var all []float64
	for round, s := range me.Samples {
		if s != nil && round < len(base.Samples) && base.Samples[round] != nil {
			all = append(all, r.value(s)/r.value(base.Samples[round]))
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	return median(all)
}

// target is what the peer of a row must reach, and whether it has one.
func (r *result) target(i int) (want float64, has bool) {
	want, has = r.Targets[r.Rows[i].Key]
	return want, has && (r.Value == byMemory || r.Rows[i].Base != i)
}

// Word says whether the target is met; it is empty where there is none.
func (r *result) Word(i int) string {
	want, has := r.target(i)
	got := r.compared(i)
	switch {
	case !has:
		return ""
	case math.IsNaN(got):
		return fmt.Sprintf("%g: not known", want)
	case got <= want:
		return fmt.Sprintf("%g: met", want)
	}
	return fmt.Sprintf("%g: missed", want)
}

// of is the last row of a peer, which is the one with idle connections where there are two; -1: it took no part.
func (r *result) of(key string) int {
	for i := range slices.Backward(r.Rows) {
		if r.Rows[i].Key == key {
			return i
		}
	}
	return -1
}

// Against says what a figure of compared is.
func (r *result) Against() string {
	switch {
	case r.Value == byMemory:
		return byMemory
	case slices.ContainsFunc(r.Rows, func(x *row) bool { return x.Base > 0 }):
		return r.Compared() + ", ratio to no idle connections"
	}
	return r.Compared() + ", ratio to nginx"
}

// Failures are all, by peer.
func (r *result) Failures() (all []string) {
	for _, x := range r.Rows {
		for _, f := range x.Failed {
			all = append(all, x.Name+": "+f)
		}
	}
	return all
}

// Table has a line for each row, its figures ready to be read.
func (r *result) Table() (head []string, lines [][]string) {
	if r.Value == byMemory {
		head = []string{"proxy", "at rest, MB", "idle connections", "kB for each", fmt.Sprintf("kB for each, after %v", later), "target"}
	} else {
		head = []string{"proxy", "CPU µs per request", "requests/s", "p50 ms", "p99 ms", r.Against(), "target"}
		if r.Value == byP99 {
			head = slices.Insert(head, 5, "generator late, p99 ms")
		}
	}
	for i, x := range r.Rows {
		line := []string{x.Name}
		switch {
		case r.Value == byMemory && x.Memory == nil:
			line = append(line, "failed", "", "", "")
		case r.Value == byMemory:
			line = append(line, number(float64(x.Memory.Rest)/(1<<20), 1), fmt.Sprint(x.Memory.Idle), number(x.Memory.Each/1024, 1), number(x.Memory.Later/1024, 1))
		default:
			line = append(line, number(x.median(func(s *sample) float64 { return s.CPU }), 1), number(x.median(func(s *sample) float64 { return s.Rate }), 0),
				number(x.median(func(s *sample) float64 { return s.P50 }), 3), number(x.median(func(s *sample) float64 { return s.P99 }), 3))
			if r.Value == byP99 {
				line = append(line, number(x.median(func(s *sample) float64 { return s.Late }), 3))
			}
			line = append(line, number(r.compared(i), 2))
		}
		lines = append(lines, append(line, r.Word(i)))
	}
	return head, lines
}

// number is empty for what is not known.
func number(x float64, digits int) string {
	if math.IsNaN(x) {
		return "failed"
	}
	return fmt.Sprintf("%.*f", digits, x)
}

// Table has a line for each work, a column for each peer, and Longshore's targets.
func (r *throughputReport) Table() (head []string, lines [][]string) {
	var keys []string
	head = []string{"work", "what is compared"}
	for _, res := range r.Results {
		for _, x := range res.Rows {
			if !slices.Contains(keys, x.Key) {
				keys, head = append(keys, x.Key), append(head, x.Name)
			}
		}
	}
	for _, res := range r.Results {
		line := []string{res.Key, res.Against()}
		var words []string
		for _, key := range keys {
			i := res.of(key)
			if i < 0 {
				line = append(line, "")
				continue
			}
			line = append(line, number(res.compared(i), 2))
			if w := res.Word(i); w != "" {
				words = append(words, key+" "+w)
			}
		}
		lines = append(lines, append(line, strings.Join(words, ", ")))
	}
	return append(head, "target"), lines
}

// Conditions says how it was measured, in a line.
func (r *throughputReport) Conditions() string {
	return fmt.Sprintf("Median of %d interleaved rounds of %d s, ratios round by round. One core: the proxy alone on it, origins and load on the other. "+
		"CPU is the proxy's user and system time; p50 and p99 are at saturation unless the rate is fixed, where they count from when a request was due. "+
		"kB are 1024 bytes. Began %s, took %s; %s.",
		r.Rounds, r.Seconds, r.Began.Format("2006-01-02 15:04"), r.Took.Round(time.Second), strings.Join(r.Versions, "; "))
}

func (r *throughputReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# CPU per request\n\n%s\n\n", r.Conditions())
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%s\n\n", n)
	}
	writeTable(&b, r.Table)
	for _, res := range r.Results {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", res.Key, res.Title())
		writeTable(&b, res.Table)
		for _, f := range res.Failures() {
			fmt.Fprintf(&b, "\nFailed: %s\n", f)
		}
	}
	return b.String()
}

func writeTable(w io.Writer, table func() ([]string, [][]string)) {
	head, lines := table()
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, l := range lines {
		fmt.Fprintf(w, "| %s |\n", strings.Join(l, " | "))
	}
}

// verdict is an error if anything that was asked for could not be measured. A target that is missed is none: it
// depends on the machine.
func (r *throughputReport) verdict() error {
	var bad []string
	for _, res := range r.Results {
		for _, f := range res.Failures() {
			bad = append(bad, res.Key+": "+f)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not measured:\n  %s", strings.Join(bad, "\n  "))
	}
	return nil
}

//go:embed throughput.html
var throughputPage string

func (r *throughputReport) writePage(file string) error {
	t, err := template.New("throughput").Funcs(template.FuncMap{"bars": newBarChart, "table": newTable}).Parse(throughputPage)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := t.Execute(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// A table is one for the page.
type table struct {
	Head  []string
	Lines [][]string
}

func newTable(of interface{ Table() ([]string, [][]string) }) table {
	head, lines := of.Table()
	return table{head, lines}
}

// A barChart is a result's compared figures in the coordinates of an SVG, a bar for each row.
type barChart struct {
	Width, Height, Left int
	Bars                []bar
	Names, Figures      []label
	Targets             []bar  // lines across the bars
	Grid                []rule // vertical
}

// A label is text in a chart.
type label struct {
	X, Y float64
	Text string
}

// newBarChart lays out.
func newBarChart(r *result) barChart {
	const row, gap = 22, 5
	c := barChart{Width: 960, Left: 250, Height: row*len(r.Rows) + 20}
	most := 1.0
	for i := range r.Rows {
		if x := r.compared(i); !math.IsNaN(x) {
			most = max(most, x)
		}
		if want, has := r.target(i); has {
			most = max(most, want)
		}
	}
	x := func(v float64) float64 { return float64(c.Left) + float64(c.Width-c.Left-120)*max(v, 0)/most }
	step := math.Pow(10, math.Floor(math.Log10(most)))
	if most/step < 3 {
		step /= 2
	}
	for v := 0.0; v <= most; v += step {
		c.Grid = append(c.Grid, rule{At: x(v), Text: fmt.Sprintf("%g", v)})
	}
	for i, p := range r.Rows {
		y, v := float64(row*i+gap), r.compared(i)
		c.Names = append(c.Names, label{float64(c.Left), y + 12, p.Name})
		c.Figures = append(c.Figures, label{x(v), y + 12, strings.TrimSpace(number(v, 2) + "  " + r.Word(i))})
		if math.IsNaN(v) {
			c.Figures[i].X = float64(c.Left)
		} else {
			c.Bars = append(c.Bars, bar{float64(c.Left), y, x(v) - float64(c.Left), row - gap, palette[i%len(palette)], p.Name})
		}
		if want, has := r.target(i); has {
			c.Targets = append(c.Targets, bar{X: x(want) - 1, Y: y - 2, W: 2, H: row - gap + 4, Title: fmt.Sprintf("target %g", want)})
		}
	}
	return c
}
