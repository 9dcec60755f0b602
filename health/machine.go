package health

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// A machine is what is known of one target. It decides, and does nothing: step is a function of what
// was known, what is new and the time.
//
// Three have a say: the checks, the container's HEALTHCHECK and the requests of the data path. Each
// keeps its own facts, so that good news from one does not hide bad news from another.
type machine struct {
	since time.Time // when the State last changed
	trial bool

	docker Docker

	admitted bool      // has answered a check well since it appeared, or since it last refused a connection
	proven   bool      // has been up since then, or need not have been to be of use
	began    time.Time // when it appeared or refused
	late     bool      // that is lateAfter ago, and it is not admitted
	eager    time.Time // when probes were last made as often as can be: then, or when its container was heard of
	failing  bool      // Fall checks have failed, and Rise have not passed since
	passed   int       // checks in a row
	failed   int       // checks in a row
	why      string    // the last check that failed
	lost     bool      // the last check could not connect
	drain    string    // how it asked to be drained; empty: it did not, or has passed a check since

	requests breaker
}

// An input is something new about a target: checked, Docker, Outcome or tick.
type input any

type (
	checked struct{ err error } // a check ended; nil: passed
	tick    struct{}            // time has passed
)

func newMachine(d Docker, now time.Time) machine {
	return machine{since: now, began: now, eager: now, docker: d}
}

func (m machine) step(in input, c Check, now time.Time) machine {
	was, _ := m.state()
	m.requests.tick(now)
	switch in := in.(type) {
	case checked:
		m.check(in.err, c, now)
	case Docker:
		if in == Healthy && m.docker != Healthy { // podman says healthy again and again
			m.requests.clear(true, now)
		}
		if in != m.docker {
			m.eager = now
		}
		m.docker = in
	case Outcome:
		m.attempt(in, c, now)
	}
	is, _ := m.state()
	if is != was {
		m.since = now
		m.trial = is == Up // whoever was out begins with one request at a time
	}
	m.proven = m.proven || is == Up || !c.Mandatory
	m.late = !m.admitted && now.Sub(m.began) >= lateAfter
	return m
}

// lateAfter is how long most backends take to start at most.
const lateAfter = 3 * time.Second

func (m machine) status() Status {
	state, why := m.state()
	var late time.Time
	if m.late {
		late = m.began
	}
	return Status{
		Late:  late,
		State: state,
		Since: m.since,
		Why:   why,
		Trial: m.trial,
		// One lost check takes no reachability away, as it takes no Up away: it has to be Fall of them.
		Reachable: m.admitted && m.proven && !(m.failing && m.lost),
	}
}

func (m machine) state() (s State, why string) {
	switch {
	case m.drain != "" && m.failing && m.failed > 0:
		return Draining, m.drain + "; since then " + m.why
	case m.drain != "":
		// Before HEALTHCHECK, which often asks the same question, and takes the answer for a failure.
		return Draining, m.drain
	case m.docker == Unhealthy:
		return Failing, "HEALTHCHECK says unhealthy"
	case !m.admitted:
		return Probing, cmp.Or(m.why, "waiting for its first successful check")
	case m.failing:
		return Failing, m.why
	case m.requests.open:
		return Failing, m.requests.why
	case m.docker == Starting:
		// Reachable, so it is used when nothing else is ready: the first HEALTHCHECK comes a whole
		// interval late, and in a service of one there is nothing to gain by waiting for it.
		return Probing, "HEALTHCHECK starting"
	}
	return Up, ""
}

// gap is the time from the beginning of one check to the beginning of the next. The longer a backend has been waited
// for, the longer it is, up to the interval: one that becomes ready late loses a hundredth of that time.
func (m machine) gap(c Check, now time.Time) time.Duration {
	const soon = 100 * time.Millisecond
	interval, waited := cmp.Or(c.Interval, 2*time.Second), now.Sub(m.eager)
	switch {
	case m.admitted:
		return interval
	case waited < 5*time.Second: // most apps listen by then, and requests may be waiting
		return soon / 2
	}
	return max(soon, min(waited/100, interval))
}

func (m *machine) check(err error, c Check, now time.Time) {
	var drain drainError
	switch {
	case errors.As(err, &drain): // but for that, it is well
		m.drain, err = drain.Error(), nil
	case err == nil:
		m.drain = ""
	}
	if err != nil {
		m.passed, m.failed = 0, m.failed+1
		m.why, m.lost = err.Error(), errors.Is(err, ErrConnect)
		m.failing = m.failing || m.failed >= c.Fall
		return
	}
	m.passed, m.failed = m.passed+1, 0
	m.lost = false
	m.failing = m.failing && m.admitted && m.passed < c.Rise
	m.admitted = true
	// A check that only connects says nothing about requests that failed.
	m.requests.clear(c.kind() != TCP, now)
}

func (m *machine) attempt(o Outcome, c Check, now time.Time) {
	switch {
	case !m.admitted: // sent before it refused another
	case o == Refused:
		// Who listened there is gone, and with it all that was known of it: failures as well as passes.
		*m = machine{since: m.since, began: now, eager: now, docker: m.docker, why: "connection refused"}
	case o == Answered:
		m.trial = false
		m.requests.answered(now)
	default:
		m.requests.failed(o, c, now)
	}
}

// A breaker leaves a backend out for a time when its requests fail: closed, open, then half-open with
// one request at a time until one is answered.
type breaker struct {
	dials     int // that failed in a row
	exchanges int // that failed in a row

	open  bool
	half  bool
	by    Outcome       // what opened it: DialFailed or Failed
	why   string        // the same in words
	until time.Time     // when it is no longer open
	span  time.Duration // how long it was last opened for; zero: start anew
	last  time.Time     // the last failure or return
}

const maxSpan = 60 * time.Second

func (b *breaker) tick(now time.Time) {
	if b.open && !now.Before(b.until) {
		b.open, b.half = false, true
	}
}

func (b *breaker) answered(now time.Time) {
	b.dials, b.exchanges = 0, 0
	if b.half {
		b.half, b.last = false, now
	}
	// While open it stays so: the answer may be to a request from before.
}

func (b *breaker) failed(o Outcome, c Check, now time.Time) {
	if b.open {
		return // it is out already
	}
	if !b.half && now.Sub(b.last) >= c.FailTimeout {
		b.span = 0 // well for one full FailTimeout: the next ejection is a first one
	}
	b.last = now
	n, what := &b.exchanges, "request"
	if o == DialFailed {
		n, what = &b.dials, "connection attempt"
	}
	*n++
	if c.MaxFails == 0 || *n < c.MaxFails && !b.half {
		return
	}
	b.open, b.half, b.by = true, false, o
	b.span = max(c.FailTimeout, min(2*b.span, maxSpan))
	b.until = now.Add(b.span)
	b.why = "a failed " + what
	if *n > 1 {
		b.why = fmt.Sprintf("%d failed %ss in a row", *n, what)
	}
}

// clear forgets failed dials, or all failures, and what they led to.
func (b *breaker) clear(all bool, now time.Time) {
	b.dials = 0
	if all {
		b.exchanges = 0
	}
	if (b.open || b.half) && (all || b.by == DialFailed) {
		b.open, b.half, b.last = false, false, now
	}
}
