package health

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// inputs is what the letters of a script mean.
var inputs = map[rune]input{
	'+': checked{nil},
	'-': checked{fmt.Errorf("health check /: status 503")},
	'q': checked{drainError("503 with X-Drain: 1")},
	'x': checked{connectError("connection refused")},
	'S': Starting, 'H': Healthy, 'U': Unhealthy, 'N': NoCheck,
	'a': Answered, 'r': Refused, 'd': DialFailed, 'f': Failed,
	'.': tick{}, // and one second passes before it
}

// letter is a status: p probing, s probing but reachable (its HEALTHCHECK is starting), t up in trial,
// u up, f unhealthy but reachable, d unhealthy and not reachable, q draining, z draining and not reachable.
func letter(s Status) string {
	switch {
	case s.State == Up && s.Trial:
		return "t"
	case s.State == Up:
		return "u"
	case s.State == Probing && s.Reachable:
		return "s"
	case s.State == Probing:
		return "p"
	case s.State == Draining && s.Reachable:
		return "q"
	case s.State == Draining:
		return "z"
	case s.Reachable:
		return "f"
	}
	return "d"
}

var start = time.Unix(1_000_000_000, 0)

// play steps a machine through a script and calls each after every step.
func play(m machine, c Check, script string, each func(before, after machine, now time.Time)) {
	now := start
	for _, r := range script {
		if r == '.' {
			now = now.Add(time.Second)
		}
		before := m
		m = m.step(inputs[r], c, now)
		each(before, m, now)
	}
}

func TestMachine(t *testing.T) {
	http := Check{Path: "/", Rise: 1, Fall: 2, MaxFails: 3, FailTimeout: 2 * time.Second}
	tcp := http
	tcp.Path = ""
	rise3 := http
	rise3.Rise = 3
	never, once, mandatory := tcp, tcp, http
	never.MaxFails, once.MaxFails = 0, 1
	mandatory.Mandatory = true

	for _, tt := range []struct {
		name         string
		check        Check
		docker       Docker
		script, want string // what happens, and the status after each
	}{
		{"the first pass admits", http, NoCheck,
			"--+",
			"ppt"},
		{"the first pass admits, whatever Rise is", rise3, NoCheck,
			"x-+",
			"ppt"},
		{"the first answer ends the trial", http, NoCheck,
			"++a+",
			"ttuu"},
		{"Fall failed checks in a row", http, NoCheck,
			"+a-+-a--+",
			"tuuuuufft"},
		{"a trial can fall", http, NoCheck,
			"+--",
			"ttf"},
		{"Rise passed checks in a row", rise3, NoCheck,
			"+a--++-+++a",
			"tuufffffftu"},
		{"reachable if the last check could connect", rise3, NoCheck,
			"+a-xx-x+++",
			"tuuddfdfft"},
		{"a lost check below Fall takes nothing away", http, NoCheck,
			"+ax+x+",
			"tuuuuu"},

		{"starting: only if nothing else is ready", http, Starting,
			"x+a+Ha",
			"pssstu"},
		{"starting and failing", http, Starting,
			"+xx+H",
			"ssdst"},
		{"healthy does not admit", http, Starting,
			"H-+",
			"ppt"},
		{"unhealthy whatever the checks say", http, NoCheck,
			"+aU+-+H",
			"tufffft"},
		{"unhealthy from the start", http, Unhealthy,
			"x+Ha",
			"dftu"},
		{"unhealthy and not reachable", http, NoCheck,
			"+aUxx+",
			"tuffdf"},
		{"unhealthy, and refuses", http, NoCheck,
			"+aUr+H",
			"tufdft"},
		{"healthy does not make up for failed checks", http, Healthy,
			"+--UH+",
			"ttffft"},
		{"a HEALTHCHECK that goes away", http, Unhealthy,
			"+N",
			"ft"},

		{"a refusal is back to probing", http, NoCheck,
			"+arx+a",
			"tupptu"},
		{"a refusal while unhealthy", http, NoCheck,
			"+--r+",
			"ttfpt"},
		{"a refusal while ejected, and no failure counts any more", tcp, NoCheck,
			"+fffr+fff",
			"tttfptttf"},
		{"a refusal while starting", http, Starting,
			"+r+",
			"sps"},
		{"failures of what was sent before the refusal", http, NoCheck,
			"+arfffad+ff",
			"tuppppppttt"},

		{"drained from one answer to the next pass", http, NoCheck,
			"+aqq+a",
			"tuqqtu"},
		{"what is sent to a draining one changes nothing", http, NoCheck,
			"+aqafff+a",
			"tuqqqqqtu"},
		{"drained is no failure, and ends a row of them", http, NoCheck,
			"+a-q-+",
			"tuuqqt"},
		{"drained as long as no check passes", http, NoCheck,
			"+aq---q+",
			"tuqqqqqt"},
		{"drained, and then not reachable", http, NoCheck,
			"+aqxxq+",
			"tuqqzqt"},
		{"drained counts as a pass for who is unhealthy", rise3, NoCheck,
			"+--q++",
			"ttfqft"},
		{"drained whatever HEALTHCHECK says", http, NoCheck,
			"+aqU+H",
			"tuqqft"},
		{"a refusal ends it", http, NoCheck,
			"+aqrq+",
			"tuqpqt"},
		{"drained from the start", http, NoCheck,
			"xq+a",
			"pqtu"},

		{"mandatory: nothing before the first pass", mandatory, NoCheck,
			"-+a--+",
			"ptuuft"},
		{"mandatory: HEALTHCHECK has to pass too", mandatory, Starting,
			"++Ha",
			"pptu"},
		{"mandatory: unhealthy from the start", mandatory, Unhealthy,
			"+-Ha",
			"ddtu"},
		{"mandatory: unhealthy later", mandatory, Healthy,
			"+aU+--",
			"tuffff"},
		{"mandatory: drained from the start", mandatory, NoCheck,
			"q+q",
			"ztq"},
		{"mandatory: a refusal begins anew", mandatory, Starting,
			"+HarS+H",
			"ptupppt"},

		{"MaxFails in a row", tcp, NoCheck,
			"+afff",
			"tuuuf"},
		{"an answer ends the row", tcp, NoCheck,
			"+affaff",
			"tuuuuuu"},
		{"failed dials and exchanges are two rows", tcp, NoCheck,
			"+affddf",
			"tuuuuuf"},
		{"MaxFails 0 is never", never, NoCheck,
			"+affffdddd",
			"tuuuuuuuuu"},
		{"MaxFails 1 is at once", once, NoCheck,
			"+af..a",
			"tufftu"},
		{"half-open, closed by an answer", tcp, NoCheck,
			"+afff..aff",
			"tuuufftuuu"},
		{"half-open, each failure is an ejection twice as long", tcp, NoCheck,
			"+afff..f....f........a",
			"tuuuf" + "ft" + "f" + "ffft" + "f" + "ffffffft" + "u"},
		{"half-open, a failure of the other kind", tcp, NoCheck,
			"+afff..d",
			"tuuufftf"},
		{"closed, and soon again: twice as long", tcp, NoCheck,
			"+afff..a.fff....",
			"tuuufftuuuufffft"},
		{"closed, and well for FailTimeout: as the first", tcp, NoCheck,
			"+afff..a..fff..",
			"tuuufftuuuuufft"},
		{"an answer while ejected does not end it", tcp, NoCheck,
			"+afffa..f",
			"tuuuffftf"},
		{"a failure while ejected does not prolong it", tcp, NoCheck,
			"+afff.fff.",
			"tuuuffffft"},

		{"a TCP pass ends a row of failed dials", tcp, NoCheck,
			"+add+dd",
			"tuuuuuu"},
		{"a TCP pass ends their ejection", tcp, NoCheck,
			"+addd+dda",
			"tuuuftttu"},
		{"a TCP pass closes what is half-open for failed dials", tcp, NoCheck,
			"+addd..+dda",
			"tuuuffttttu"},
		{"a TCP pass does not see failed exchanges", tcp, NoCheck,
			"+aff+f+..",
			"tuuuuffft"},
		{"an HTTP pass ends both rows", http, NoCheck,
			"+affdd+fdfd",
			"tuuuuuuuuuu"},
		{"an HTTP pass ends every ejection", http, NoCheck,
			"+afff+a",
			"tuuuftu"},
		{"turning healthy does too, being so does not", tcp, Healthy,
			"+afffHUHff",
			"tuuufffttt"},
		{"ejected and failing its checks", tcp, NoCheck,
			"+a--fff+..a",
			"tuufffffftu"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			play(newMachine(tt.docker, start), tt.check, tt.script, func(_, m machine, _ time.Time) {
				got.WriteString(letter(m.status()))
			})
			if got.String() != tt.want {
				t.Errorf("\ninput %s\ngot   %s\nwant  %s", tt.script, &got, tt.want)
			}
		})
	}
}

func TestWhy(t *testing.T) {
	c := Check{Path: "/", Rise: 2, Fall: 2, MaxFails: 3, FailTimeout: time.Second}
	for _, tt := range []struct{ script, want string }{
		{"", "waiting for its first successful check"},
		{"x", "connection refused"},
		{"x-", "health check /: status 503"},
		{"x+", ""},
		{"+-", ""},
		{"+--", "health check /: status 503"},
		{"+--+", "health check /: status 503"},
		{"+ar", "connection refused"},
		{"+S", "HEALTHCHECK starting"},
		{"U", "HEALTHCHECK says unhealthy"},
		{"+q", "it asked to be drained: health check answered 503 with X-Drain: 1"},
		{"+q-", "it asked to be drained: health check answered 503 with X-Drain: 1"},
		{"+q-x", "it asked to be drained: health check answered 503 with X-Drain: 1; since then connection refused"},
		{"+--q", "it asked to be drained: health check answered 503 with X-Drain: 1"},
		{"+fff", "3 failed requests in a row"},
		{"+ddd", "3 failed connection attempts in a row"},
		{"+fffa.", ""},
		{"+fffa.f", "a failed request"},
	} {
		m := newMachine(NoCheck, start)
		play(m, c, tt.script, func(_, after machine, _ time.Time) { m = after })
		if got := m.status().Why; got != tt.want {
			t.Errorf("after %q: %q, want %q", tt.script, got, tt.want)
		}
	}
}

func TestEjectionSpan(t *testing.T) {
	for _, tt := range []struct {
		failTimeout time.Duration
		want        string
	}{
		{10 * time.Second, "[10s 20s 40s 1m0s 1m0s]"},
		{90 * time.Second, "[1m30s 1m30s 1m30s 1m30s 1m30s]"},
	} {
		m, c := newMachine(NoCheck, start), Check{MaxFails: 1, FailTimeout: tt.failTimeout}
		m = m.step(checked{}, c, start)
		var got []time.Duration
		for now := start; len(got) < 5; now = m.requests.until {
			m = m.step(Failed, c, now)
			got = append(got, m.requests.until.Sub(now))
		}
		if got := fmt.Sprint(got); got != tt.want {
			t.Errorf("FailTimeout %v: %s, want %s", tt.failTimeout, got, tt.want)
		}
	}
}

// Whatever happens, a status makes sense.
func FuzzMachine(f *testing.F) {
	f.Add("+a--++a", true, false)
	f.Add("x+SHUar+fff..f....a", false, false)
	f.Add("Sq+HqU--xrq+", true, true)
	f.Fuzz(func(t *testing.T, script string, path, mandatory bool) {
		c := Check{Rise: 2, Fall: 2, MaxFails: 2, FailTimeout: 2 * time.Second, Mandatory: mandatory}
		if path {
			c.Path = "/"
		}
		play(newMachine(NoCheck, start), c, script, func(before, after machine, now time.Time) {
			was, is := before.status(), after.status()
			since := was.Since
			if is.State != was.State {
				since = now
			}
			switch {
			case is.State == Up && !is.Reachable:
				t.Error("up but not reachable")
			case is.State != Up && is.Trial:
				t.Error("in trial but not up")
			case is.State == Up && was.State != Up && !is.Trial:
				t.Error("up again without a trial")
			case (is.Why == "") != (is.State == Up):
				t.Errorf("%v because %q", is.State, is.Why)
			case is.Since != since:
				t.Errorf("%v since %v, want %v", is.State, is.Since, since)
			}
		})
	})
}
