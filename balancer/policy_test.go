package balancer

import (
	"encoding"
	"testing"
)

var (
	_ encoding.TextUnmarshaler = (*Policy)(nil)
	_ encoding.TextMarshaler   = Policy{}
)

func TestParsePolicy(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"least_conn", "least_conn"},
		{"round_robin", "round_robin"},
		{"random two", "random two"},
		{"random two least_conn", "random two"},
		{"  random \t two\n", "random two"},
		{"random two least_conn;", "random two"},
		{"    least_conn ;\n", "least_conn"},
		{"random", "random"},
		{"random two  least_time=header", "random two least_time=header"},
		{"least_time last_byte;", "least_time last_byte"},
		{"ip_hash;", "ip_hash"},
		{"first", "first"},
		{"hash $request_uri consistent;", "hash $request_uri"}, // it always is
		{`hash "$host${arg_user}-x"`, "hash $host${arg_user}-x"},
	} {
		var p Policy
		if err := p.UnmarshalText([]byte(test.text)); err != nil {
			t.Errorf("%q: %v", test.text, err)
		} else if got := p.String(); got != test.want {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
	}
}

func TestParsePolicyErrors(t *testing.T) {
	const allowed = "allowed are first, hash KEY, ip_hash, least_conn, least_time header, least_time last_byte, random, random two, " +
		"random two least_time=header, random two least_time=last_byte, round_robin"
	const plainText = ": want variables and text without quotes, semicolons, braces and backslashes"
	unknown := func(name string) string { return "unknown balancing policy " + name + ": " + allowed }
	for _, test := range []struct{ text, want string }{
		{"fastest", unknown(`"fastest"`)},
		{"", unknown(`""`)},
		{"Least_Conn", unknown(`"Least_Conn"`)}, // nginx has no such directive either
		{"least_conn;;", unknown(`"least_conn;"`)},
		{"least_conn two", unknown(`"least_conn two"`)},
		{"random three", unknown(`"random three"`)},
		{"random two\x00", unknown(`"random two\x00"`)},
		{"hash", unknown(`"hash"`)},
		{"hash $host twice", unknown(`"hash $host twice"`)},
		{"hash $uri", `balancing policy "hash $uri": unknown variable in "$uri": want ` + keyVariables},
		{"hash $arg_", `balancing policy "hash $arg_": unknown variable in "$arg_": want ` + keyVariables},
		{"hash ${host", `balancing policy "hash ${host": unknown variable in "$host": want ` + keyVariables},
		{`hash "`, `balancing policy "hash \"": "\"" in a key` + plainText},
		{`hash $arg_0;"`, `balancing policy "hash $arg_0;\"": ";\"" in a key` + plainText},
		{`hash '$host"`, `balancing policy "hash '$host\"": "'" in a key` + plainText},
		{`hash ""$host"`, `balancing policy "hash \"\"$host\"": "\"" in a key` + plainText},
		{`hash $host;x`, `balancing policy "hash $host;x": ";x" in a key` + plainText},
		{`hash ${host}}`, `balancing policy "hash ${host}}": "}" in a key` + plainText},
		{"hash x", `balancing policy "hash x": ` + errNoVariable.Error()},
	} {
		p := Policy{kind: 1}
		if err := p.UnmarshalText([]byte(test.text)); err == nil {
			t.Errorf("%q: %v, want an error", test.text, p)
		} else if got := err.Error(); got != test.want {
			t.Errorf("%q:\n got %s\nwant %s", test.text, got, test.want)
		}
		if p != (Policy{kind: 1}) {
			t.Errorf("%q: the error changed the policy to %v", test.text, p)
		}
	}
}

func TestZeroPolicyIsLeastConn(t *testing.T) {
	p := Policy{kind: 1}
	if err := p.UnmarshalText([]byte("least_conn")); err != nil || p != (Policy{}) {
		t.Errorf("least_conn: %v, %v, want the zero value", p, err)
	}
}

func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{"least_conn", " random  two least_conn ;", "round_robin", "ip_hash", "random two ;;", "hash $host$cookie_a consistent", "hash ${arg_x}y;", `hash $arg_0;"`, `hash "$host";`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var p, again Policy
		if p.UnmarshalText([]byte(text)) != nil {
			return
		}
		canonical, err := p.MarshalText()
		if err != nil || string(canonical) != p.String() {
			t.Fatalf("%q: marshals to %q, %v, want %q", text, canonical, err, p.String())
		}
		if err := again.UnmarshalText(canonical); err != nil || again != p {
			t.Errorf("%q: %v, and parsed again %v, %v", text, p, again, err)
		}
	})
}
