package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
	"longshore/internal/docs"
)

func TestDefaults(t *testing.T) {
	c, warnings, err := Load(nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("an empty environment: %v, %v", err, warnings)
	}
	s := c.Settings
	for _, x := range []struct {
		name      string
		got, want any
	}{
		{"LISTEN", c.Listen, ":80"}, {"ADMIN", c.Admin, ":9180"}, {"BALANCER", s.Balancer.String(), "least_conn"},
		{"HEALTH_INTERVAL", s.Health.Interval, 2 * time.Second}, {"HEALTH_FALL", s.Health.Fall, 2},
		{"HEALTH_STATUS", s.Health.Accept.String(), "200-399"}, {"MAX_FAILS", s.Health.MaxFails, 3},
		{"CONNECT_TIMEOUT", s.ConnectTimeout, time.Second}, {"READ_TIMEOUT", s.ReadTimeout, time.Minute},
		{"KEEPALIVE", s.Keepalive, 256}, {"MAX_BODY", s.MaxBody, discovery.Size(0)}, {"MAX_HEADER", c.MaxHeader, discovery.Size(32 << 10)},
		{"SHUTDOWN_TIMEOUT", c.ShutdownTimeout, 9 * time.Second}, {"ACCESS_LOG", string(c.AccessLog), "combined"},
	} {
		if x.got != x.want {
			t.Errorf("%s is %v by default, want %v", x.name, x.got, x.want)
		}
	}
}

// TestValues has a good value of each variable that is built, and what becomes of it.
func TestValues(t *testing.T) {
	for _, x := range []struct {
		kv   string
		read func(Config) any
		want any
	}{
		{"LISTEN=127.0.0.1:8080", func(c Config) any { return c.Listen }, "127.0.0.1:8080"},
		{"ADMIN=", func(c Config) any { return c.Admin }, ""},
		{"PROJECT=*", func(c Config) any { return c.Project }, "*"},
		{"NETWORK=front", func(c Config) any { return c.Network }, "front"},
		{"BALANCER=random two", func(c Config) any { return c.Settings.Balancer.String() }, "random two"},
		{"HEALTH_PATH=/up", func(c Config) any { return c.Settings.Health.Path }, "/up"},
		{"HEALTH_INTERVAL=500ms", func(c Config) any { return c.Settings.Health.Interval }, 500 * time.Millisecond},
		{"HEALTH_TIMEOUT=3", func(c Config) any { return c.Settings.Health.Timeout }, 3 * time.Second},
		{"HEALTH_STATUS=200,204", func(c Config) any { return c.Settings.Health.Accept.Contains(204) }, true},
		{"HEALTH_TYPE=grpc", func(c Config) any { return c.Settings.Health.Type }, health.GRPC},
		{"HEALTH_PORT=8081", func(c Config) any { return c.Settings.Health.OtherPort }, uint16(8081)},
		{"HEALTH_HOST=shop.example.com:81", func(c Config) any { return c.Settings.Health.HostHeader }, "shop.example.com:81"},
		{"HEALTH_JITTER=1", func(c Config) any { return c.Settings.Health.Jitter }, time.Second},
		{"HEALTH_MATCH=status 200;body ~ 'ok'", func(c Config) any { return c.Settings.Health.Match.String() }, "status 200; body ~ ok"},
		{"HEALTH_MANDATORY=true", func(c Config) any { return c.Settings.Health.Mandatory }, true},
		{"HEALTH_DISABLE_ON_404=true", func(c Config) any { return c.Settings.Health.DisableOn404 }, true},
		{"HEALTH_GRPC_SERVICE=shop.Cart", func(c Config) any { return c.Settings.Health.GRPCService }, "shop.Cart"},
		{"HEALTH_GRPC_STATUS=12", func(c Config) any { return c.Settings.Health.GRPCStatus }, 12},
		{"HEALTH_FAILS=3", func(c Config) any { return c.Settings.Health.Fall }, 3},
		{"HEALTH_PASSES=4", func(c Config) any { return c.Settings.Health.Rise }, 4},
		{"HEALTH_URI=/up", func(c Config) any { return c.Settings.Health.Path }, "/up"},
		{"MAX_FAILS=0", func(c Config) any { return c.Settings.Health.MaxFails }, 0},
		{"KEEPALIVE=0", func(c Config) any { return c.Settings.Keepalive }, 0},
		{"MAX_BODY=10m", func(c Config) any { return c.Settings.MaxBody }, discovery.Size(10 << 20)},
		{"MAX_HEADER=8k", func(c Config) any { return c.MaxHeader }, discovery.Size(8 << 10)},
		{"TRUSTED_PROXIES=10.1.2.3, private", func(c Config) any { return len(c.TrustedProxies) }, 1 + len(private)},
		{"ACCESS_LOG=json", func(c Config) any { return string(c.AccessLog) }, "json"},
		{"LOG_LEVEL=debug", func(c Config) any { return c.LogLevel.String() }, "DEBUG"},
		{"LOG_FORMAT=json", func(c Config) any { return string(c.LogFormat) }, "json"},
		{"SHUTDOWN_TIMEOUT=0s", func(c Config) any { return c.ShutdownTimeout }, time.Duration(0)},
		{"LABEL=com.ameyalokare.type=web", func(c Config) any { return c.Label }, Selector{Key: "com.ameyalokare.type", Value: "web"}},
		{"LABEL=web", func(c Config) any { return c.Label }, Selector{Key: "web", AnyValue: true}},
	} {
		c, warnings, err := Load([]string{Prefix + x.kv})
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", x.kv, err, warnings)
		} else if got := x.read(c); got != x.want {
			t.Errorf("%s: got %v, want %v", x.kv, got, x.want)
		}
	}
}

// TestWrong has a wrong value for each kind of variable: one line that names it, the value, and what is allowed.
func TestWrong(t *testing.T) {
	for kv, want := range map[string]string{
		"LISTEN=80":               `LONGSHORE_LISTEN="80": want host:port or :port`,
		"ADMIN=x y:1":             `LONGSHORE_ADMIN="x y:1": want host:port, :port or empty`,
		"UPSTREAM=web:http":       `LONGSHORE_UPSTREAM="web:http": port "http": want a number from 1 to 65535`,
		"UPSTREAM=https://web":    `LONGSHORE_UPSTREAM="https://web": scheme "https" is not built yet: want http`,
		"UPSTREAM=api=a:1,api=":   `LONGSHORE_UPSTREAM="api=a:1,api=": "api=": target "": want name:port`,
		"UPSTREAM=/a=http://b/?c": `LONGSHORE_UPSTREAM="/a=http://b/?c": path "/?c": want the path of a URL, such as / or /v2, without a query`,
		"UPSTREAM=a:1,~(=b:1":     `LONGSHORE_UPSTREAM="a:1,~(=b:1": "~(=b:1": regular expression "~(": missing closing ): "(" (RE2: no lookaround, no backreferences)`,
		"UPSTREAM=~^a(?=b) /=b:1": `LONGSHORE_UPSTREAM="~^a(?=b) /=b:1": regular expression "~^a(?=b)": invalid or unsupported Perl syntax: "(?=" (RE2: no lookaround, no backreferences)`,
		"UPSTREAM=a:1,/=a:1":      `LONGSHORE_UPSTREAM="a:1,/=a:1": "/=a:1": route / leads to "a:1" twice`,
		"UPSTREAM=a:1|a:1":        `LONGSHORE_UPSTREAM="a:1|a:1": route / leads to "a:1" twice`,
		"UPSTREAM=a:1|":           `LONGSHORE_UPSTREAM="a:1|": target "": want name:port`,
		"UPSTREAM=/a=b,/a=c/d":    `LONGSHORE_UPSTREAM="/a=b,/a=c/d": "/a=c/d": route /a is there before, as /a: want it written the same, with the same path behind each target`,
		"UPSTREAM=/a=b/|c":        `LONGSHORE_UPSTREAM="/a=b/|c": route /a is there before, as /a: want it written the same, with the same path behind each target`,
		"UPSTREAM=/a=b:1,/a/=c:1": `LONGSHORE_UPSTREAM="/a=b:1,/a/=c:1": "/a/=c:1": route /a/ is there before, as /a: want it written the same, with the same path behind each target`,
		"UPSTREAM= , ":            `LONGSHORE_UPSTREAM=" , ": want name:port, such as flaskapp:5090`,
		"STICKY_SECRET=hunter2":   `LONGSHORE_STICKY_SECRET has 7 characters: want at least 16, such as openssl rand -hex 16 gives`,
		"UPSTREAM=a b c=d:1":      `LONGSHORE_UPSTREAM="a b c=d:1": route "a b c": want a host and a path; \s is a space in a regular expression`,
		"UPSTREAM=a b=d:1":        `LONGSHORE_UPSTREAM="a b=d:1": path "b": want a path prefix that begins with /, perhaps behind ^~, an exact path behind =, or a regular expression behind ~, without a query`,
		"BACKENDS=a:1/x":          `LONGSHORE_BACKENDS="a:1/x": address: want host:port without a path`,
		"UPSTREAM=a..b=c:1":       `LONGSHORE_UPSTREAM="a..b=c:1": host "a..b": want a name such as shop.example.com, *.example.com, www.* or a regular expression behind ~, without a port`,
		"LABEL=a b":               `LONGSHORE_LABEL="a b": want one label, key or key=value`,
		"BACKENDS=a:1 weight=x":   `LONGSHORE_BACKENDS="a:1 weight=x": weight="x": want a whole number from 1 to 65535`,
		"BACKENDS=a:1 max_conns=": `LONGSHORE_BACKENDS="a:1 max_conns=": want max_conns=VALUE`,
		"BACKENDS=a:1 wait=2":     `LONGSHORE_BACKENDS="a:1 wait=2": unknown parameter "wait"; allowed are weight, max_conns, max_fails, fail_timeout, slow_start, backup, down, drain, route`,
		"BACKENDS=a:1 resolve":    `LONGSHORE_BACKENDS="a:1 resolve": resolve is not built: use LONGSHORE_UPSTREAM, which follows containers by name`,
		"BACKENDS=a:1 backup=1":   `LONGSHORE_BACKENDS="a:1 backup=1": want backup without a value`,
		"BACKENDS=a max_fails=-1": `LONGSHORE_BACKENDS="a max_fails=-1": max_fails="-1": want a whole number, at least 0`,
		"BACKENDS=a:1,a:1":        `LONGSHORE_BACKENDS="a:1,a:1": "a:1": the address is there twice`,
		"HEALTH_PATH=up":          `LONGSHORE_HEALTH_PATH="up": want a path that begins with /`,
		"HEALTH_PATH=/a%zz":       `LONGSHORE_HEALTH_PATH="/a%zz": want a path that begins with /`,
		"HEALTH_INTERVAL=0s":      `LONGSHORE_HEALTH_INTERVAL="0s": want a duration of at least 10ms, such as 500ms or 10s`,
		"HEALTH_TIMEOUT=soon":     `LONGSHORE_HEALTH_TIMEOUT="soon": want a duration of at least 1ms, such as 500ms or 10s`,
		"HEALTH_RISE=0":           `LONGSHORE_HEALTH_RISE="0": want a whole number, at least 1`,
		"HEALTH_STATUS=2xx":       `LONGSHORE_HEALTH_STATUS="2xx": want status codes such as 200-399 or 200,204`,
		"HEALTH_TYPE=udp":         `LONGSHORE_HEALTH_TYPE="udp": want http, tcp or grpc`,
		"HEALTH_PORT=0":           `LONGSHORE_HEALTH_PORT="0": want a port from 1 to 65535`,
		"HEALTH_HOST=a b":         `LONGSHORE_HEALTH_HOST="a b": want a host, perhaps with a port`,
		"HEALTH_HOST=a/b":         `LONGSHORE_HEALTH_HOST="a/b": want a host, perhaps with a port`,
		"HEALTH_JITTER=-1s":       `LONGSHORE_HEALTH_JITTER="-1s": want a duration of at least 0s, such as 500ms or 10s`,
		"HEALTH_MATCH=body is ok": `LONGSHORE_HEALTH_MATCH="body is ok": want body ~ or body !~ and a regular expression, in quotes if it has spaces`,
		"HEALTH_MANDATORY=yes":    `LONGSHORE_HEALTH_MANDATORY="yes": want true or false`,
		"HEALTH_GRPC_STATUS=17":   `LONGSHORE_HEALTH_GRPC_STATUS="17": want a whole number from 0 to 16`,
		"HEALTH_FAILS=0":          `LONGSHORE_HEALTH_FAILS="0": want a whole number, at least 1`,
		"HEALTH_PASSES=x":         `LONGSHORE_HEALTH_PASSES="x": want a whole number, at least 1`,
		"HEALTH_URI=up":           `LONGSHORE_HEALTH_URI="up": want a path that begins with /`,
		"MAX_FAILS=-1":            `LONGSHORE_MAX_FAILS="-1": want a whole number, at least 0`,
		"MAX_BODY=big":            `LONGSHORE_MAX_BODY="big": want a size such as 32k, 10m or off`,
		"MAX_HEADER=1":            `LONGSHORE_MAX_HEADER="1": want a size from 1k to 16m, such as 32k`,
		"TRUSTED_PROXIES=home":    `LONGSHORE_TRUSTED_PROXIES="home": want CIDRs, addresses or the word private`,
		"ACCESS_LOG=nginx":        `LONGSHORE_ACCESS_LOG="nginx": want combined, json, off`,
		"LOG_LEVEL=loud":          `LONGSHORE_LOG_LEVEL="loud": want debug, info, warn or error`,
		"LOG_FORMAT=xml":          `LONGSHORE_LOG_FORMAT="xml": want text, json`,
		"QUEUE=-1":                `LONGSHORE_QUEUE="-1": want a whole number, at least 0`,
		"QUEUE_TIMEOUT=0s":        `LONGSHORE_QUEUE_TIMEOUT="0s": want a duration of at least 1ms, such as 500ms or 10s`,
		"FAST_LANE=no":            `LONGSHORE_FAST_LANE="no": want on, off`,
	} {
		_, _, err := Load([]string{Prefix + kv})
		if err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", kv, err, want)
		}
	}
}

func TestWrongAllTogether(t *testing.T) {
	_, _, err := Load([]string{"LONGSHORE_UPSTREAM=a:1", "LONGSHORE_LABEL=b", "LONGSHORE_HEALTH_RISE=x", "LONGSHORE_BALANCER=fastest"})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "fastest") || !strings.Contains(lines[1], "HEALTH_RISE") ||
		lines[2] != `LONGSHORE_UPSTREAM="a:1" and LONGSHORE_LABEL="b": only one of them is allowed` {
		t.Errorf("got:\n%v\nwant a line each for the policy, HEALTH_RISE, and UPSTREAM with LABEL", err)
	}
}

// TestTwoSpellings: fall and fails are one setting.
func TestTwoSpellings(t *testing.T) {
	if c, _, err := Load([]string{"LONGSHORE_HEALTH_FALL=3", "LONGSHORE_HEALTH_FAILS=3"}); err != nil || c.Settings.Health.Fall != 3 {
		t.Errorf("both say 3: %d, %v", c.Settings.Health.Fall, err)
	}
	_, _, err := Load([]string{"LONGSHORE_HEALTH_FALL=2", "LONGSHORE_HEALTH_FAILS=3"})
	want := `LONGSHORE_HEALTH_FALL="2": LONGSHORE_HEALTH_FAILS, which is the same setting, says "3": want one of them`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, _, err = ParseLabels(map[string]string{"longshore.health.rise": "2", "longshore.health.passes": "3", "longshore.health.fails": "x"}, Defaults())
	want = `label longshore.health.fails="x": want a whole number, at least 1
label longshore.health.rise="2": longshore.health.passes, which is the same setting, says "3": want one of them`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	defaults := Defaults()
	defaults.Health.Fall = 5 // as LONGSHORE_HEALTH_FALL says
	l, warnings, err := ParseLabels(map[string]string{"longshore.health.fails": "1"}, defaults)
	if l.Settings.Health.Fall != 1 || len(warnings) > 0 || err != nil {
		t.Errorf("a label by its other spelling: %d, %q, %v; want that it wins", l.Settings.Health.Fall, warnings, err)
	}
}

func TestUnknownVariable(t *testing.T) {
	_, warnings, err := Load([]string{"LONGSHORE_HEALTH_PAHT=/up", "PATH=/bin", "LONGSHORE_TLS_CERT=x", "LONGSHORE_UPSTREAMS=x", "LONGSHORE_X=1"})
	want := []string{
		"unknown variable LONGSHORE_HEALTH_PAHT, ignored; the nearest known one is LONGSHORE_HEALTH_PATH",
		"unknown variable LONGSHORE_TLS_CERT, ignored",
		"unknown variable LONGSHORE_UPSTREAMS, ignored; the nearest known one is LONGSHORE_UPSTREAM",
		"unknown variable LONGSHORE_X, ignored",
	}
	if err != nil || !slices.Equal(warnings, want) {
		t.Errorf("got %q, %v; want %q", warnings, err, want)
	}
}

// TestEmpty: what is empty means what it would mean if it were not there, with a warning. A label that says where
// requests come from or go to must not: without a host it would be every host.
func TestEmpty(t *testing.T) {
	c, warnings, err := Load([]string{"LONGSHORE_UPSTREAM=", "LONGSHORE_LABEL=", "LONGSHORE_BACKENDS=", "LONGSHORE_PROJECT=", "LONGSHORE_LOG_LEVEL="})
	var want []string
	for _, key := range []string{"UPSTREAM", "LABEL", "BACKENDS", "PROJECT"} {
		want = append(want, "LONGSHORE_"+key+" is empty, which is as if it were not set; perhaps a variable in the compose file is not set")
	}
	if err != nil || !slices.Equal(warnings, want) || len(c.Upstream) > 0 {
		t.Errorf("got %q, %v; want %q", warnings, err, want)
	}
	for label, want := range map[string]string{
		"host": "error", "path": "error", "port": "error", "enable": "error", "network": "error", "strip": "error", "rewrite": "error", "service": "error",
		"web.port": "error", "web.host": "error", "weight": "warning", "health.path": "warning", "balancer": "warning", "web.sticky": "warning",
	} {
		labels := map[string]string{"longshore.port": "1", "longshore.web.port": "2"}
		name := "longshore." + label
		labels[name] = ""
		l, warnings, err := ParseLabels(labels, Defaults())
		got := fmt.Sprintf("%v%v", err, warnings)
		switch want {
		case "error":
			want = "label " + name + `="": it is empty: perhaps a variable in the compose file is not set[]`
		case "warning":
			want = "<nil>[label " + name + " is empty, and ignored: perhaps a variable in the compose file is not set]"
		}
		if got != want || !l.Any {
			t.Errorf("%s: got %s\nwant %s", name, got, want)
		}
	}
	for _, blank := range []string{" ", ",", "\n"} {
		if _, _, err := ParseLabels(map[string]string{"longshore.host": blank}, Defaults()); err == nil {
			t.Errorf("longshore.host=%q means every host", blank)
		}
	}
}

// TestCase: labels are lower case. One that is not is named, since it does nothing.
func TestCase(t *testing.T) {
	l, warnings, err := ParseLabels(map[string]string{
		"longshore.port": "80", "longshore.Host": "a.example.com", "Longshore.path": "/x", "LONGSHORE.ENABLE": "false", "com.example.Host": "b", "longshore.web.Port": "1",
	}, Defaults())
	want := []string{
		"label LONGSHORE.ENABLE is not read: labels are lower case, as longshore.enable is",
		"label Longshore.path is not read: labels are lower case, as longshore.path is",
		"label longshore.Host is not read: labels are lower case, as longshore.host is",
		"unknown label longshore.web.Port, ignored",
	}
	if err != nil || !slices.Equal(warnings, want) || len(l.Host) > 0 || l.Enable != Unset {
		t.Errorf("got %q, %v\nwant %q", warnings, err, want)
	}
}

func TestBackends(t *testing.T) {
	var bs Backends
	if err := bs.UnmarshalText([]byte("127.0.0.1:9001 weight=2 max_conns=7 slow_start=30 route=a, 127.0.0.1:9002 backup max_fails=1 fail_timeout=5s\n b down,\nc drain\n")); err != nil {
		t.Fatal(err)
	}
	defaults := Defaults()
	check := defaults.Health
	check.MaxFails, check.FailTimeout = 1, 5*time.Second
	endpoint := func(addr string, port uint16, s discovery.Server, c health.Check, down string) discovery.Endpoint {
		return discovery.Endpoint{Key: discovery.Key{ID: addr, Run: 1, Port: port}, Name: addr, Addr: addr, Server: s, Check: c, Down: down}
	}
	want := []discovery.Endpoint{
		endpoint("127.0.0.1:9001", 9001, discovery.Server{Weight: 2, MaxConns: 7, SlowStart: 30 * time.Second, Route: "a"}, defaults.Health, ""),
		endpoint("127.0.0.1:9002", 9002, discovery.Server{Weight: 1, Backup: true}, check, ""),
		endpoint("b:80", 80, discovery.Server{Weight: 1, Retired: true}, defaults.Health, "marked down"),
		endpoint("c:80", 80, discovery.Server{Weight: 1, Drain: true}, defaults.Health, ""),
	}
	if got := bs.Endpoints(defaults); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestLabels(t *testing.T) {
	defaults := Defaults()
	l, warnings, err := ParseLabels(map[string]string{
		"longshore.port": "8080", "longshore.host": "A.example.com, *.b.org", "longshore.path": "/api/",
		"longshore.weight": "3", "longshore.health.path": "/up", "longshore.max_fails": "0", "longshore.balancer": "round_robin",
		"longshore.pot": "1", "com.example": "other",
	}, defaults)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"unknown label longshore.pot, ignored; the nearest known one is longshore.port"}; !slices.Equal(warnings, want) {
		t.Errorf("warnings %q, want %q", warnings, want)
	}
	wantRoutes := []discovery.Route{{Host: "a.example.com", Path: "/api", Slash: true}, {Host: "*.b.org", Path: "/api", Slash: true}}
	if !l.Any || l.Port != 8080 || l.Server.Weight != 3 || !slices.Equal(l.Routes(), wantRoutes) {
		t.Errorf("got %+v with routes %v", l, l.Routes())
	}
	s := l.Settings
	if s.Health.Path != "/up" || s.Health.MaxFails != 0 || s.Balancer.String() != "round_robin" || s.Health.Interval != defaults.Health.Interval {
		t.Errorf("settings %+v", s)
	}
}

func TestWrongLabels(t *testing.T) {
	_, _, err := ParseLabels(map[string]string{"longshore.port": "http", "longshore.health.rise": "0", "longshore.enable": "maybe", "longshore.queue": "-1"}, Defaults())
	want := `label longshore.enable="maybe": want true or false
label longshore.health.rise="0": want a whole number, at least 1
label longshore.port="http": want a port from 1 to 65535
label longshore.queue="-1": want a whole number, at least 0`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// TestDisabled: enable=false alone does not choose a container, and neither does another project's label.
func TestDisabled(t *testing.T) {
	for _, x := range []struct {
		labels map[string]string
		any    bool
	}{
		{nil, false},
		{map[string]string{"com.example.web": "1"}, false},
		{map[string]string{"longshore.enable": "false", "longshore.port": "80"}, false},
		{map[string]string{"longshore.enabled": "false"}, false},
		{map[string]string{"longshore.enable": "true"}, true},
		{map[string]string{"longshore.health.path": "/up"}, true},
	} {
		if l, _, _ := ParseLabels(x.labels, Defaults()); l.Any != x.any {
			t.Errorf("%v: chosen %v, want %v", x.labels, l.Any, x.any)
		}
	}
}

// TestFieldNames: the parser's errors carry only the name of a struct's field, so names must be unique.
func TestFieldNames(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Labels]()} {
		seen := make(map[string]string)
		for key, f := range fields(typ, "") {
			if other, ok := seen[f.name]; ok {
				t.Errorf("%v: %s and %s are both called %s", typ, key, other, f.name)
			}
			seen[f.name] = key
			if f.help == "" {
				t.Errorf("%v: %s has no help", typ, key)
			}
		}
	}
}

// TestReference keeps docs/reference.md in step with the structs.
func TestReference(t *testing.T) { docs.Check(t, "reference.md", "settings", Table()) }

func FuzzLabels(f *testing.F) {
	f.Add("longshore.port", "80")
	f.Add("longshore.health.status", "200-399")
	f.Add("longshore.host", "*.a.b,c")
	f.Add("longshore.health.match", "body ~ (\n")
	f.Add("longshore.health.fails", "0")
	f.Fuzz(func(t *testing.T, name, value string) {
		l, _, err := ParseLabels(map[string]string{name: value}, Defaults())
		if err == nil && l.Server.Weight < 1 {
			t.Errorf("%s=%s: weight %d", name, value, l.Server.Weight)
		}
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s=%s: more than one line: %v", name, value, err)
		}
	})
}
