package balancer

import (
	"fmt"
	"slices"
	"strings"
)

// A Policy is a way to choose, as in the configuration. Policies are comparable; the zero value is least_conn.
type Policy struct {
	kind uint8 // index into policies
}

// policies has every policy; the first is the default. Another policy is a file and a line.
var policies = [...]struct {
	build func(list) Picker // gets at least two candidates
	names []string          // nginx spellings of the upstream directive, the canonical one first
}{
	{newLeastConn, []string{"least_conn"}},
	{newRandomTwo, []string{"random two", "random two least_conn"}},
	{newRoundRobin, []string{"round_robin"}},
}

// New returns a picker for one fixed list, which may be empty. It does not keep cs.
func (p Policy) New(cs []Candidate) Picker {
	l := newList(cs)
	if len(l) < 2 {
		return l // the normal case in a compose project, and no policy has a choice here
	}
	return policies[p.kind].build(l)
}

// String returns the canonical name.
func (p Policy) String() string { return policies[p.kind].names[0] }

// MarshalText returns the canonical name.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a policy as nginx spells it in an upstream block, with or without the semicolon.
func (p *Policy) UnmarshalText(b []byte) error {
	text := strings.TrimSuffix(strings.TrimSpace(string(b)), ";")
	name := strings.Join(strings.Fields(text), " ")
	var allowed []string
	for i := range policies {
		if slices.Contains(policies[i].names, name) {
			p.kind = uint8(i)
			return nil
		}
		allowed = append(allowed, policies[i].names[0])
	}
	slices.Sort(allowed)
	format := "unknown balancing policy %q: allowed are %s"
	if planned(name) {
		format = "balancing policy %q is not built yet: allowed are %s"
	}
	return fmt.Errorf(format, name, strings.Join(allowed, ", "))
}

// planned reports whether the name is right, but we do not have the policy (first is HAProxy's, the rest nginx's).
func planned(name string) bool {
	switch word, _, _ := strings.Cut(name, " "); word {
	case "first", "hash", "ip_hash", "least_time":
		return true
	}
	return name == "random" || strings.HasPrefix(name, "random two least_time")
}
