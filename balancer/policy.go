package balancer

import (
	"fmt"
	"slices"
	"strings"
)

// A Policy is a way to choose, as in the configuration. Policies are comparable; the zero value is least_conn.
type Policy struct {
	kind uint8  // index into policies
	key  string // of hash: what a request is hashed by, in nginx's words; empty for others
}

// A Timing is which time of a request a policy wants to be told, see [Load.Observe].
type Timing uint8

const (
	Untimed    Timing = iota
	ToHeader          // from the request to the header of its response
	ToLastByte        // to the end of its response
)

// policies has every policy; the first is the default. Another policy is a file and a line.
var policies = [...]struct {
	build  func(list) Picker // gets at least two candidates
	timing Timing
	ramps  bool     // weights may change from list to list (nginx: slow_start)
	names  []string // nginx spellings of the upstream directive, the canonical one first; KEY stands for a key
}{
	{newLeastConn, Untimed, true, []string{"least_conn"}},
	{newRandomTwo, Untimed, true, []string{"random two", "random two least_conn"}},
	{newRoundRobin, Untimed, true, []string{"round_robin"}},
	{newRandom, Untimed, true, []string{"random"}},
	{newLeastTime, ToHeader, true, []string{"least_time header"}},
	{newLeastTime, ToLastByte, true, []string{"least_time last_byte"}},
	{newRandomTwoTimed, ToHeader, true, []string{"random two least_time=header"}},
	{newRandomTwoTimed, ToLastByte, true, []string{"random two least_time=last_byte"}},
	{newHash, Untimed, false, []string{"hash KEY", "hash KEY consistent"}},
	{newIPHash, Untimed, false, []string{"ip_hash"}},
	{func(l list) Picker { return l }, Untimed, false, []string{"first"}}, // HAProxy's word: in the order of names, as long as there is room
}

// New returns a picker for one fixed list, which may be empty. It does not keep cs.
func (p Policy) New(cs []Candidate) Picker {
	l := newList(cs)
	if len(l) < 2 {
		return l // the normal case in a compose project, and no policy has a choice here
	}
	return policies[p.kind].build(l)
}

// Timing is what the data path must tell [Load.Observe] for this policy.
func (p Policy) Timing() Timing { return policies[p.kind].timing }

// Ramps reports whether a backend may begin with less than its share (nginx: slow_start): not where that would move
// keys, or the order that the user wants.
func (p Policy) Ramps() bool { return policies[p.kind].ramps }

// Key is what Query.Key is made of for this policy; nil: it does not matter.
func (p Policy) Key() Key {
	if p.String() == "ip_hash" {
		return Key{{Var: "remote_net"}}
	}
	k, _ := parseKey(p.key) // nil if there is none; it was parsed before
	return k
}

// String returns the canonical name.
func (p Policy) String() string { return strings.Replace(policies[p.kind].names[0], "KEY", p.key, 1) }

// MarshalText returns the canonical name.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// longestKey is how long the key of hash may be: policies are shown to people.
const longestKey = 200

// UnmarshalText reads a policy as nginx spells it in an upstream block, with or without the semicolon.
func (p *Policy) UnmarshalText(b []byte) error {
	text := strings.TrimSuffix(strings.TrimSpace(string(b)), ";")
	words := strings.Fields(text)
	name, key := strings.Join(words, " "), ""
	if len(words) > 1 && words[0] == "hash" {
		key, words[1] = unquote(words[1]), "KEY"
		if len(key) > longestKey {
			return fmt.Errorf("balancing policy hash: want a key of at most %d characters", longestKey)
		}
		if _, err := parseKey(key); err != nil {
			return fmt.Errorf("balancing policy %q: %w", name, err)
		}
	}
	var allowed []string
	for i := range policies {
		if slices.Contains(policies[i].names, strings.Join(words, " ")) {
			p.kind, p.key = uint8(i), key
			return nil
		}
		allowed = append(allowed, policies[i].names[0])
	}
	slices.Sort(allowed)
	return fmt.Errorf("unknown balancing policy %q: allowed are %s", name, strings.Join(allowed, ", "))
}

// unquote is a word without the quotes around it, if it has them.
func unquote(s string) string {
	if n := len(s); n > 1 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}
