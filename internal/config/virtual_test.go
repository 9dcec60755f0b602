package config

import (
	"slices"
	"testing"

	"longshore/discovery"
)

// TestVirtual has the forms of nginx-proxy's documentation.
func TestVirtual(t *testing.T) {
	type route = discovery.Route
	for _, c := range []struct {
		name     string
		env      []string
		want     []Site
		internal bool
	}{
		{"nothing", []string{"PATH=/bin", "VIRTUAL_PORT=80", "VIRTUAL_PROTO=https"}, nil, false},
		{"empty", []string{"VIRTUAL_HOST="}, nil, false},
		{"one", []string{"VIRTUAL_HOST=foo.bar.com"}, []Site{{route{Host: "foo.bar.com", Path: "/"}, 0}}, false},
		{"several", []string{"VIRTUAL_HOST=foo.bar.com, Baz.bar.com,,foo.bar.com", "VIRTUAL_PORT=8080"},
			[]Site{{route{Host: "foo.bar.com", Path: "/"}, 8080}, {route{Host: "baz.bar.com", Path: "/"}, 8080}}, false},
		{"wildcards", []string{`VIRTUAL_HOST=*.bar.com,foo.bar.*,~^foo\.bar\..*\.nip\.io`},
			[]Site{{route{Host: "*.bar.com", Path: "/"}, 0}, {route{Host: "foo.bar.*", Path: "/"}, 0}, {route{Host: `~^foo\.bar\..*\.nip\.io`, Path: "/", Rank: 2}, 0}}, false},
		{"path", []string{"VIRTUAL_HOST=example.tld", "VIRTUAL_PATH=/app1/", "VIRTUAL_DEST=/", "NETWORK_ACCESS=internal", "VIRTUAL_PROTO=http"},
			[]Site{{route{Host: "example.tld", Path: "/app1", Slash: true, Dest: "/"}, 0}}, true},
		{"regular expression as path", []string{"VIRTUAL_HOST=a", "VIRTUAL_PATH=~^/(app1|alternative1)/", "NETWORK_ACCESS=external"},
			[]Site{{route{Host: "a", Path: "~^/(app1|alternative1)/"}, 0}}, false},
		{"ports to hosts", []string{"VIRTUAL_HOST=ignored", "VIRTUAL_PORT=1", `VIRTUAL_HOST_MULTIPORTS=
www.example.org:
service1.example.org:
  "/":
    port: 8000
service2.example.org:
  "/":
    port: "9000"
`}, []Site{{route{Host: "service1.example.org", Path: "/"}, 8000}, {route{Host: "service2.example.org", Path: "/"}, 9000}, {route{Host: "www.example.org", Path: "/"}, 0}}, false},
		{"ports to paths", []string{`VIRTUAL_HOST_MULTIPORTS=
www.example.org:
  external_https_port: 8443
  "/":
  "/service1":
    port: 8000
    dest: "/"
  "/service2/":
    port: 9000
    dest: ""
    proto: http
`}, []Site{{route{Host: "www.example.org", Path: "/"}, 0}, {route{Host: "www.example.org", Path: "/service1", Dest: "/"}, 8000},
			{route{Host: "www.example.org", Path: "/service2", Slash: true}, 9000}}, false},
		{"JSON", []string{`VIRTUAL_HOST_MULTIPORTS={"www.example.org": {}, "service1.example.org": {"/": {"port": 8000, "dest": ""}}, "~^x": {"/": {}}}`},
			[]Site{{route{Host: "service1.example.org", Path: "/"}, 8000}, {route{Host: "www.example.org", Path: "/"}, 0}, {route{Host: "~^x", Path: "/", Rank: 2}, 0}}, false},
	} {
		v, err := ParseVirtual(c.env)
		if err != nil || !slices.Equal(v.Sites, c.want) || v.Internal != c.internal {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, v, err, c.want)
		}
	}
}

func TestWrongVirtual(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"VIRTUAL_HOST=a b", `VIRTUAL_HOST="a b": host: want a name such as shop.example.com, *.example.com, www.* or a regular expression behind ~, without a port`},
		{"VIRTUAL_HOST=~(", `VIRTUAL_HOST="~(": regular expression: missing closing ): "(" (RE2: no lookaround, no backreferences)`},
		{"VIRTUAL_HOST=a.b\x1b[31m", `VIRTUAL_HOST="a.b\x1b[31m": host: want a name such as shop.example.com, *.example.com, www.* or a regular expression behind ~, without a port`},
		{"VIRTUAL_PATH=/a\x00", `VIRTUAL_PATH="/a\x00": path: want it without control characters`},
		{"VIRTUAL_PATH=~a\x07", `VIRTUAL_PATH="~a\a": path: want it without control characters`},
		{"VIRTUAL_PORT=http", `VIRTUAL_PORT="http": want a port from 1 to 65535`},
		{"VIRTUAL_PATH=app", `VIRTUAL_PATH="app": want a path that begins with /, =/, ^~ or ~`},
		{"VIRTUAL_DEST=app", `VIRTUAL_DEST="app": path: want the path of a URL, such as / or /v2, without a query`},
		{"VIRTUAL_PROTO=https", `VIRTUAL_PROTO="https": not built yet: want http`},
		{"VIRTUAL_HOST_MULTIPORTS=a", `VIRTUAL_HOST_MULTIPORTS="a": want YAML: hosts, below each of them paths, and below those port, dest and proto`},
		{"VIRTUAL_HOST_MULTIPORTS={", `VIRTUAL_HOST_MULTIPORTS="{": yaml: line 1: did not find expected node content`},
		{"VIRTUAL_HOST_MULTIPORTS={}", `VIRTUAL_HOST_MULTIPORTS="{}": want a virtual host`},
		{"VIRTUAL_HOST_MULTIPORTS={a: {/: {port: x}}}", `VIRTUAL_HOST_MULTIPORTS="{a: {/: {port: x}}}": a/: port want a port from 1 to 65535`},
		{"VIRTUAL_HOST_MULTIPORTS={a: {/: {proto: grpc}}}", `VIRTUAL_HOST_MULTIPORTS="{a: {/: {proto: grpc}}}": a/: proto not built yet: want http`},
		{"VIRTUAL_HOST_MULTIPORTS={a: {/: 80}}", `VIRTUAL_HOST_MULTIPORTS="{a: {/: 80}}": a/: want port, dest and proto`},
	} {
		if v, err := ParseVirtual([]string{"VIRTUAL_HOST=a", c.env}); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %+v and\n%v\nwant\n%s", c.env, v, err, c.want)
		}
	}
	for env, want := range map[string]string{
		"DEFAULT_HOST=Foo.example.com": "foo.example.com", "DEFAULT_HOST=~^a": "~^a", "DEFAULT_HOST=": "",
	} {
		if c, _, err := Load([]string{env}); err != nil || c.DefaultHost != want {
			t.Errorf("%s: got %q, %v", env, c.DefaultHost, err)
		}
	}
	if _, _, err := Load([]string{"DEFAULT_HOST=a,b"}); err == nil || err.Error() != `DEFAULT_HOST="a,b": want one host` {
		t.Errorf("two default hosts: %v", err)
	}
}

func FuzzVirtual(f *testing.F) {
	f.Add("VIRTUAL_HOST", "a.b,*.c")
	f.Add("VIRTUAL_HOST_MULTIPORTS", `{"a": {"/": {"port": 8000}}}`)
	f.Add("VIRTUAL_PATH", "/x/")
	f.Fuzz(func(t *testing.T, name, value string) {
		v, err := ParseVirtual([]string{"VIRTUAL_HOST=a", name + "=" + value})
		if err == nil && len(v.Sites) == 0 && name != "VIRTUAL_HOST" {
			t.Errorf("%s=%q: no sites", name, value)
		}
	})
}
