package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A chart is an outcome's timeline in the coordinates of an SVG: above requests per second by replica,
// below the latency on a logarithmic scale.
type chart struct {
	Width, Height int
	Bars          []bar
	Fails         []bar // where requests failed, at the upper edge
	Median        string
	Dots          []spot // slowest answer of each interval
	Steps, Events []rule
	Grid          []rule // horizontal
	Seconds       []rule // vertical
	Legend        []entry
	Top, Mid, Low int // upper edge of the rates, their base line, base line of the latencies
	Left          int
}

type bar struct {
	X, Y, W, H float64
	Color      string
	Title      string
}

type spot struct {
	X, Y  float64
	Title string
}

type rule struct {
	At   float64
	Text string
	Row  int // of the text, so that neighbours do not cover each other
}

type entry struct {
	X           int
	Color, Text string
}

// palette has colours that can be told apart, none of them red, which is for failures.
var palette = []string{"#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#999999", "#994f00", "#332288", "#44aa99", "#bbcc33", "#77aadd", "#ffaabb"}

const failed = "#d62728"

// newChart lays out.
func newChart(o *outcome) chart {
	c := chart{Width: 960, Height: 280, Left: 44, Top: 50, Mid: 160, Low: 260}
	wide := float64(c.Width - c.Left - 10)
	x := func(ms float64) float64 { return float64(c.Left) + wide*ms/max(o.Length, 1) }

	per := 1000 / ms(bucket) // requests in an interval to requests a second
	most := 1.0
	for _, iv := range o.Timeline {
		most = max(most, per*float64(sum(iv)))
	}
	tall := float64(c.Mid-c.Top) / most
	colors := make(map[string]string)
	at := c.Left
	for i, p := range o.Replicas {
		colors[p.Name] = palette[i%len(palette)]
		text := fmt.Sprintf("%s (%.0f %%)", p.Name, 100*p.Share)
		c.Legend = append(c.Legend, entry{at, colors[p.Name], text})
		at += 24 + 7*len(text)
	}
	c.Legend = append(c.Legend, entry{at, failed, "failed"})

	const decades = 4 // 1 ms to 10 s
	y := func(ms float64) float64 {
		share := math.Log10(min(max(ms, 1), 10000)) / decades
		return float64(c.Low) - share*float64(c.Low-c.Mid-20)
	}
	step := wide / max(o.Length/ms(bucket), 1)
	var median []string
	for i, iv := range o.Timeline {
		left := x(float64(i) * ms(bucket))
		if left >= float64(c.Width-10) {
			break
		}
		base := float64(c.Mid)
		for _, p := range o.Replicas {
			if n := iv.By[p.Name]; n > 0 {
				h := tall * per * float64(n)
				base -= h
				c.Bars = append(c.Bars, bar{left, base, step, h, colors[p.Name], fmt.Sprintf("%.1f s: %d answers of %s", float64(i)*bucket.Seconds(), n, p.Name)})
			}
		}
		if iv.Failed > 0 {
			h := tall * per * float64(iv.Failed)
			title := fmt.Sprintf("%.1f s: %d failed", float64(i)*bucket.Seconds(), iv.Failed)
			c.Bars = append(c.Bars, bar{left, base - h, step, h, failed, title})
			c.Fails = append(c.Fails, bar{left, float64(c.Top) - 7, max(step, 4), 5, failed, title})
		}
		if iv.Median > 0 {
			median = append(median, fmt.Sprintf("%.1f,%.1f", left+step/2, y(iv.Median)))
			c.Dots = append(c.Dots, spot{left + step/2, y(iv.Max), fmt.Sprintf("%.1f s: slowest %.1f ms, median %.1f ms", float64(i)*bucket.Seconds(), iv.Max, iv.Median)})
		} else if len(median) > 0 {
			c.Median += "M" + strings.Join(median, " L")
			median = nil
		}
	}
	if len(median) > 0 {
		c.Median += "M" + strings.Join(median, " L")
	}
	c.Grid = append(c.Grid, rule{At: float64(c.Mid), Text: "0"}, rule{At: float64(c.Top), Text: fmt.Sprintf("%.0f/s", most)})
	for ms, text := range map[float64]string{1: "1 ms", 10: "10 ms", 100: "100 ms", 1000: "1 s", 10000: "10 s"} {
		c.Grid = append(c.Grid, rule{At: y(ms), Text: text})
	}
	slices.SortFunc(c.Grid, func(a, b rule) int { return int(a.At - b.At) })
	for s := 0.0; s*1000 <= o.Length; s++ {
		c.Seconds = append(c.Seconds, rule{At: x(s * 1000), Text: fmt.Sprintf("%.0f", s)})
	}
	for i, m := range o.Steps {
		c.Steps = append(c.Steps, rule{At: x(m.At), Text: m.Text, Row: i % 2})
	}
	for _, m := range o.Events {
		c.Events = append(c.Events, rule{At: x(m.At), Text: fmt.Sprintf("%.2f s: %s", m.At/1000, m.Text)})
	}
	return c
}

func sum(iv interval) int {
	n := iv.Failed
	for _, k := range iv.By {
		n += k
	}
	return n
}
