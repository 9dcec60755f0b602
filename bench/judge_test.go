package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tape makes a take from a few words: a shot every 10 ms for two seconds, answered in 1 ms by a
// replica that who names ("": failed with status 502).
func tape(sc scenario, who contender, by func(at time.Duration) string, events ...string) *take {
	tk := &take{sc: sc, who: who, run: 1, begin: time.Now(), length: 2 * time.Second, executed: make(map[string][]string), via: make(map[int]string), applied: new(appliedLog)}
	for i := range 200 {
		s := shot{ID: i, Method: "GET", Due: time.Duration(i) * 10 * time.Millisecond, Took: time.Millisecond, Status: 200}
		if s.Replica = by(s.Due); s.Replica == "" {
			s.Status, s.Cause = 502, "status 502"
		}
		tk.shots = append(tk.shots, s)
	}
	hosts := make(map[string]bool)
	for _, e := range events {
		var at int
		var action, host string
		fmt.Sscan(e, &at, &action, &host)
		ev := event{Time: tk.begin.Add(time.Duration(at) * time.Millisecond), Action: action, Host: host}
		if action == "kill" {
			ev.Signal = "15"
		}
		tk.events = append(tk.events, ev)
		if !hosts[host] && host != "stranger" {
			hosts[host] = true
			tk.replicas = append(tk.replicas, &replica{Host: host, Name: fmt.Sprint(len(hosts)), Addrs: []string{"10.0.0." + fmt.Sprint(len(hosts))}})
		}
	}
	return tk
}

// from says who answers from a time in milliseconds on.
func from(at int, host string, before string) func(time.Duration) string {
	return func(d time.Duration) string {
		if d >= time.Duration(at)*time.Millisecond {
			return host
		}
		return before
	}
}

func verdictOf(o *outcome, target string) verdict {
	for _, v := range o.Verdicts {
		if strings.Contains(v.Target, target) {
			return v
		}
	}
	return verdict{Got: "there is no target " + target}
}

func TestJudgeRecreated(t *testing.T) {
	sc := scenario{App: map[string]string{"LISTEN_AFTER": "200ms"}}
	o := judge(tape(sc, contenders[0], from(1000, "new", "old"), "-5000 start old", "500 kill old", "520 die old", "600 start new"))
	if o.Failed != 0 || o.Outage != 300 {
		t.Errorf("%d failed, outage %g ms, want 0 and 300: the kill to the start and 200 ms", o.Failed, o.Outage)
	}
	if got := verdictOf(o, "p99.9"); !strings.Contains(got.Target, "600 ms") || !got.Met {
		t.Errorf("%+v, want a limit of 600 ms, met", got)
	}
	if len(o.Uses) != 1 || *o.Uses[0].Took != 401 {
		t.Errorf("uses: %+v, want one after 401 ms", o.Uses)
	}
	if got := verdictOf(o, "used within 400 ms"); got.Met || got.Got != "401 ms at most" {
		t.Errorf("%+v, want it missed by 1 ms", got)
	}
	if p := o.Replicas; p[0].Should || p[0].Serves || *p[0].LastUse != 491 || !p[1].Should || !p[1].Serves {
		t.Errorf("replicas: %+v, want the old one used 491 ms too long, the new one serving", p)
	}
}

func TestJudgeIdle(t *testing.T) {
	o := judge(tape(scenario{}, contenders[0], from(0, "one", ""), "-5000 start one", "-4000 start two", "500 pause two", "700 unpause two"))
	if v := verdictOf(o, "serve"); v.Met || !v.Fatal || v.Got != "without requests: 2" {
		t.Errorf("%+v, want replica 2 to be missed", v)
	}
	if v := verdictOf(o, "used within"); v.Met || !strings.Contains(v.Got, "never: 2") {
		t.Errorf("%+v, want replica 2 never used", v)
	}
	if o.Outage != 0 {
		t.Errorf("an outage of %g ms while one replica was there all the time", o.Outage)
	}
	o = judge(tape(scenario{}, contenders[0], from(0, "one", ""), "-5000 start one", "-4000 start two", "500 pause two"))
	if v := verdictOf(o, "serve"); !v.Met {
		t.Errorf("%+v: a replica that is paused at the end need not serve", v)
	}
}

func TestJudgeStranger(t *testing.T) {
	o := judge(tape(scenario{}, contenders[1], from(1500, "stranger", "one"), "-5000 start one", "1000 start stranger"))
	if o.Failed != 50 || o.Causes["another service answered"] != 50 {
		t.Errorf("%d failed: %v, want the 50 that another service answered", o.Failed, o.Causes)
	}
}

// TestExcuse: a failed POST is excused only with evidence that it was in flight on an app that exited.
func TestExcuse(t *testing.T) {
	longshore, nginx := contenders[0], contenders[1]
	for name, c := range map[string]struct {
		who      contender
		method   string
		due      int // ms; it takes 5
		status   int
		executed string
		via      string
		excused  bool
	}{
		"executed by the one that exits":       {longshore, "POST", 997, 502, "two", "10.0.0.2:5090", true},
		"executed by one that stays":           {longshore, "POST", 997, 502, "one", "10.0.0.1:5090", false},
		"sent to the one that exits":           {longshore, "POST", 990, 502, "", "10.0.0.1:5090, 10.0.0.2:5090", true},
		"sent last to one that stays":          {longshore, "POST", 990, 502, "", "10.0.0.2:5090, 10.0.0.1:5090", false},
		"sent to the one that exits, but 503":  {longshore, "POST", 990, 503, "", "10.0.0.2:5090", false},
		"sent to the one that exited long ago": {longshore, "POST", 1200, 502, "", "10.0.0.2:5090", false},
		"long before the exit":                 {longshore, "POST", 800, 502, "", "10.0.0.2:5090", false},
		"a GET":                                {longshore, "GET", 997, 502, "", "10.0.0.2:5090", false},
		"no log, at the time of the exit":      {nginx, "POST", 1010, 502, "", "", true},
		"no log, another time":                 {nginx, "POST", 1500, 502, "", "", false},
		"sent nowhere":                         {longshore, "POST", 997, 502, "", "", false},
	} {
		tk := tape(scenario{}, c.who, from(0, "one", ""), "-5000 start one", "-5000 start two", "1000 kill two", "1020 die two")
		s := shot{ID: 7, Method: c.method, Due: time.Duration(c.due) * time.Millisecond, Took: 5 * time.Millisecond, Status: c.status, Cause: "status"}
		if c.executed != "" {
			tk.executed[s.requestID()] = []string{c.executed}
		}
		if c.who.Admin {
			tk.via[7] = c.via
		}
		if got := excuse(tk, livesOf(tk), s); (got != "") != c.excused {
			t.Errorf("%s: excuse %q, want one: %v", name, got, c.excused)
		}
	}
}

func TestJudgePosts(t *testing.T) {
	tk := tape(scenario{Method: "POST"}, contenders[0], from(0, "one", ""), "-5000 start one")
	for i := range tk.shots {
		tk.shots[i].Method = "POST"
		tk.executed[tk.shots[i].requestID()] = []string{"one"}
	}
	tk.executed["shot-3"] = []string{"one", "one"}
	delete(tk.executed, "shot-4")
	o := judge(tk)
	if o.Twice != 1 || verdictOf(o, "twice").Met {
		t.Errorf("%d executed twice, %+v, want 1, not met", o.Twice, verdictOf(o, "twice"))
	}
	if o.Failed != 1 || o.Causes["answered, but not executed"] != 1 {
		t.Errorf("failed %d, %v, want the one that no app has executed", o.Failed, o.Causes)
	}
}

func TestJudgeGenerator(t *testing.T) {
	tk := tape(scenario{}, contenders[0], from(0, "one", ""), "-5000 start one")
	for i := range 5 {
		tk.shots[i].Late = 80 * time.Millisecond
	}
	o := judge(tk)
	if !strings.Contains(o.Invalid, "80 ms") {
		t.Errorf("invalid %q, want the generator blamed", o.Invalid)
	}
	if got, want := verdictOf(o, "p99.9").Word()+", "+verdictOf(o, "lost").Word(), "not valid, met"; got != want {
		t.Errorf("the latency and the loss: %s, want %s", got, want)
	}
}

// TestReport renders all forms of a small report.
func TestReport(t *testing.T) {
	good := judge(tape(scenarios[0], contenders[0], from(0, "one", ""), "-5000 start one"))
	tk := tape(scenarios[0], contenders[1], from(1500, "", "one"), "-5000 start one", "1500 kill one", "1510 die one")
	tk.steps = []done{{Step: "kill <1>", Begin: 1490 * time.Millisecond}}
	tk.note = "a note"
	bad := judge(tk)
	r := &report{Rate: 100, Compose: "docker compose", Versions: map[string]string{"docker": "20.10"}, Skipped: []string{"x: too old"}, Outcomes: []*outcome{good, bad}}
	if err := r.verdict(); err != nil {
		t.Errorf("only a peer has lost requests: %v", err)
	}
	var md, html bytes.Buffer
	if err := errors.Join(r.markdown(&md), r.html(&html)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| scale-up | 0 | 50 |", "50 × status 502", "no request lost: **met**", "a note", "x: too old"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the Markdown has no %q:\n%s", want, &md)
		}
	}
	for _, want := range []string{"<svg", "kill &lt;1&gt;", "1.5 s: 10 failed", "1.51 s: die 1", `class="median" d="M`} {
		if !strings.Contains(html.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, bad := range []string{"ZgotmplZ", "NaN", "Inf"} {
		if strings.Contains(html.String(), bad) {
			t.Errorf("the page has a %q", bad)
		}
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	bad.Contender = "longshore"
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "no request lost: 50 of 200") {
		t.Errorf("Longshore has lost 50: %v", err)
	}
	r.Outcomes, r.Errors = []*outcome{good}, []string{"kill, longshore: no answer"}
	if r.verdict() == nil {
		t.Error("what could not be played is not known to be well")
	}
}

func TestViaOf(t *testing.T) {
	via := viaOf([]byte(`{"uri":"/","upstream":"10.0.0.1:1"}
no json
{"uri":"/?12","upstream":"10.0.0.1:1, 10.0.0.2:1"}
`))
	if len(via) != 1 || via[12] != "10.0.0.1:1, 10.0.0.2:1" {
		t.Errorf("via %v", via)
	}
}
