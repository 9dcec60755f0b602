package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"longshore/discovery"
)

func TestParseRoute(t *testing.T) {
	type route = discovery.Route
	for text, want := range map[string]route{
		"/":                       {Path: "/"},
		"/api":                    {Path: "/api"},
		"/api/":                   {Path: "/api", Slash: true},
		"/a//b/./c":               {Path: "/a/b/c"},
		"Shop.Example.com.":       {Host: "shop.example.com", Path: "/"},
		"shop.example.com/cart":   {Host: "shop.example.com", Path: "/cart"},
		"shop.example.com /cart/": {Host: "shop.example.com", Path: "/cart", Slash: true},
		"*.example.com":           {Host: "*.example.com", Path: "/"},
		"www.*":                   {Host: "www.*", Path: "/"},
		"[::1]/x":                 {Host: "[::1]", Path: "/x"},
		"=/favicon.ico":           {Path: "=/favicon.ico"},
		"= /a/":                   {Path: "=/a/"},
		"a.b =/up":                {Host: "a.b", Path: "=/up"},
		"a.b = /up":               {Host: "a.b", Path: "=/up"},
		`~^/v\d+/`:                {Path: `~^/v\d+/`},
		`~* \.(png|jpg)$`:         {Path: `~*\.(png|jpg)$`},
		`~^www\d+\. /`:            {Host: `~^www\d+\.`, Path: "/"},
		`~^www\d+\. ~^/v\d{1,2}/`: {Host: `~^www\d+\.`, Path: `~^/v\d{1,2}/`},
		"a.b ~^/x":                {Host: "a.b", Path: "~^/x"},
		"^~ /admin":               {Path: "^~/admin"},
		"^~/admin/":               {Path: "^~/admin/", Slash: true},
		"^~ /":                    {Path: "^~/"},
		"a.b ^~ /a//b":            {Host: "a.b", Path: "^~/a/b"},
	} {
		got, err := ParseRoute(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := ParseRoute(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %q, and that reads as %+v, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{
		"", " ", "a:80", "a..b", ".a", "*.*.a", "a*", "*", "a.*.b", "~", "~ ", "~*", "~(", `a\b~ /`, "=", "=x", "a b", "/x?y", "~a b c", `~^/a(?!b)`, "^~", "^~ ", "^~ a", "^/a", "=^~/a", "^~=/a", "^~ /a?b", "^~~/a",
	} {
		if got, err := ParseRoute(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", text, err)
		}
	}
}

// TestHosts: a host is accepted if a client can send it.
func TestHosts(t *testing.T) {
	for host, want := range map[string]string{
		"shop_1.Example.com":              "shop_1.example.com",
		"localhost":                       "localhost",
		"192.0.2.1":                       "192.0.2.1",
		"[2001:DB8::1]":                   "[2001:db8::1]",
		"*.xn--bcher-kva.ch":              "*.xn--bcher-kva.ch",
		"bücher.ch":                       "host: clients send it as xn--bcher-kva.ch: write that",
		"*.BÜCHER.ch":                     "host: clients send it as *.xn--bcher-kva.ch: write that",
		"пример.*":                        "host: clients send it as xn--e1afmkfd.*: write that",
		"'foo.example.com'":               "want",
		`"foo.example.com"`:               "want",
		"a;b":                             "want",
		"${domain}":                       "want",
		"$domain":                         "want",
		"a\x00b":                          "want",
		"a\x1b[31m":                       "want",
		"a\u200bb":                        "host: clients send it as ab: write that",
		"a b":                             "want",
		"a%20b":                           "want",
		"a\\b":                            "want",
		"[::1%eth0]":                      "want",
		"[x]":                             "want",
		"[::1":                            "want",
		"::1":                             "want",
		"Host(`a.b`)":                     "want",
		strings.Repeat("a", 64) + ".com":  "want",
		strings.Repeat("a.", 127) + "com": "want",
		"~a\x00":                          `regular expression: write control characters as \x00`,
	} {
		var hs Hosts
		err := hs.UnmarshalText([]byte(host))
		got := ""
		switch {
		case err == nil:
			got = strings.Join(hs, " ")
		case strings.Contains(err.Error(), ": want a name such as"):
			got = "want"
		default:
			got = without(err.Error(), host)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
		if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("%q: the error has control characters: %q", host, err)
		}
	}
}

func TestUpstream(t *testing.T) {
	type route = discovery.Route
	root := route{Path: "/"}
	for text, want := range map[string]Upstream{
		"flaskapp:5090":         {{root, "flaskapp", 5090}},
		"http://flaskapp:5090/": {{root, "flaskapp", 5090}},
		"flaskapp":              {{root, "flaskapp", 0}},
		"[::1]:80":              {{root, "::1", 80}},
		"web:5090, /api=api:8000, shop.example.com/cart=cart:80": {
			{root, "web", 5090}, {route{Path: "/api"}, "api", 8000}, {route{Host: "shop.example.com", Path: "/cart"}, "cart", 80}},
		"/api/=api:1, *.Example.com.=b:2":                          {{route{Path: "/api", Slash: true}, "api", 1}, {route{Host: "*.example.com", Path: "/"}, "b", 2}},
		"/api=http://api:8000/":                                    {{route{Path: "/api", Dest: "/"}, "api", 8000}},
		"/api/=api:8000/v2/":                                       {{route{Path: "/api", Slash: true, Dest: "/v2/"}, "api", 8000}},
		"http://web/app":                                           {{route{Path: "/", Dest: "/app"}, "web", 0}},
		`~^/v\d{1,3}/=api:8000, web`:                               {{route{Path: `~^/v\d{1,3}/`}, "api", 8000}, {root, "web", 0}},
		`~^/([,(]|\,)=api, ~a=b=web:1`:                             {{route{Path: `~^/([,(]|\,)`}, "api", 0}, {route{Path: "~a=b", Rank: 1}, "web", 1}},
		`~^/[],]x=api`:                                             {{route{Path: `~^/[],]x`}, "api", 0}},
		"=/up=web:1, = /down = web:2":                              {{route{Path: "=/up"}, "web", 1}, {route{Path: "=/down"}, "web", 2}},
		"a.b =/up=web:1, a.b =/x=web/y":                            {{route{Host: "a.b", Path: "=/up"}, "web", 1}, {route{Host: "a.b", Path: "=/x", Dest: "/y"}, "web", 0}},
		"web1:5000|web2:5000, /api=http://api:1/ | http://api2:2/": {{root, "web1", 5000}, {root, "web2", 5000}, {route{Path: "/api", Dest: "/"}, "api", 1}, {route{Path: "/api", Dest: "/"}, "api2", 2}},
		"web1:5000, web2:5000":                                     {{root, "web1", 5000}, {root, "web2", 5000}},
		"web1\n/api=api:1\n\n/b=b\n":                               {{root, "web1", 0}, {route{Path: "/api"}, "api", 1}, {route{Path: "/b"}, "b", 0}},
		"~^/(a|b)$=api|api2:1, ~^/(a|b)$=api3":                     {{route{Path: "~^/(a|b)$"}, "api", 0}, {route{Path: "~^/(a|b)$"}, "api2", 1}, {route{Path: "~^/(a|b)$"}, "api3", 0}},
		"^~ /admin=web:1, a.b ^~/x/=web/y":                         {{route{Path: "^~/admin"}, "web", 1}, {route{Host: "a.b", Path: "^~/x/", Slash: true, Dest: "/y"}, "web", 0}},
		"^~ /=web/":                                                {{route{Path: "^~/"}, "web", 0}},
		`~^www\d\. /x=web, *.b=web`:                                {{route{Host: `~^www\d\.`, Path: "/x"}, "web", 0}, {route{Host: "*.b", Path: "/"}, "web", 0}},
	} {
		var u Upstream
		if err := u.UnmarshalText([]byte(text)); err != nil || !reflect.DeepEqual(u, want) {
			t.Errorf("%s: got %+v, %v; want %+v", text, u, err, want)
		}
	}
}

func TestRouteLabels(t *testing.T) {
	type route = discovery.Route
	for _, c := range []struct {
		labels map[string]string // without the prefix
		want   []route
	}{
		{map[string]string{"port": "1"}, []route{{Path: "/"}}},
		{map[string]string{"path": "/api/", "strip": "true"}, []route{{Path: "/api", Slash: true, Dest: "/"}}},
		{map[string]string{"path": "/api", "rewrite": "/v2"}, []route{{Path: "/api", Dest: "/v2"}}},
		{map[string]string{"rewrite": "/app/"}, []route{{Path: "/", Dest: "/app/"}}},
		{map[string]string{"strip": "yes"}, []route{{Path: "/"}}},
		{map[string]string{"host": `a.b, ~^w{1,3}\d+\.c$,www.*`, "path": "= /x"},
			[]route{{Host: "a.b", Path: "=/x"}, {Host: `~^w{1,3}\d+\.c$`, Path: "=/x", Rank: 1}, {Host: "www.*", Path: "=/x"}}},
		{map[string]string{"path": "^~ /admin", "strip": "true"}, []route{{Path: "^~/admin", Dest: "/"}}},
		{map[string]string{"path": `~^/v\d`, "rewrite": "/"}, []route{{Path: `~^/v\d`, Dest: "/"}}},
	} {
		labels := make(map[string]string)
		for k, v := range c.labels {
			labels[LabelPrefix+k] = v
		}
		l, warnings, err := ParseLabels(labels, Defaults())
		if err != nil || len(warnings) > 0 || !slices.Equal(l.Routes(), c.want) {
			t.Errorf("%v: got %+v, %v, %v; want %+v", c.labels, l.Routes(), warnings, err, c.want)
		}
	}
	for label, want := range map[string]string{
		"longshore.host=~(":       `label longshore.host="~(": regular expression: missing closing ): "(" (RE2: no lookaround, no backreferences)`,
		"longshore.host=a/b":      `label longshore.host="a/b": host: want a name such as shop.example.com, *.example.com, www.* or a regular expression behind ~, without a port`,
		"longshore.path=api":      `label longshore.path="api": want a path that begins with /, =/, ^~ or ~`,
		"longshore.rewrite=v2":    `label longshore.rewrite="v2": path: want the path of a URL, such as / or /v2, without a query`,
		"longshore.rewrite=/a b":  `label longshore.rewrite="/a b": path: want it percent-encoded`,
		"longshore.strip=perhaps": `label longshore.strip="perhaps": want true or false`,
	} {
		k, v, _ := strings.Cut(label, "=")
		if _, _, err := ParseLabels(map[string]string{k: v}, Defaults()); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", label, err, want)
		}
	}
	_, _, err := ParseLabels(map[string]string{"longshore.path": "~x", "longshore.strip": "true"}, Defaults())
	if want := `label longshore.strip="true": path is a regular expression, which has no prefix: use rewrite`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNamedLabels(t *testing.T) {
	l, warnings, err := ParseLabels(map[string]string{
		"longshore.balancer": "round_robin", "longshore.max_fails": "7",
		"longshore.web.port": "8080", "longshore.web.host": "a.example.com", "longshore.web.path": "/x",
		"longshore.metrics.port": "9100", "longshore.metrics.health.path": "/up", "longshore.metrics.max_fails": "1",
		"longshore.healht.path": "/up", "longshore.metrics.pot": "1", "longshore.other.host": "b",
	}, Defaults())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"unknown label longshore.healht.path, ignored; the nearest known one is longshore.health.path",
		"unknown label longshore.metrics.pot, ignored",
		"unknown label longshore.other.host, ignored",
	}
	for i := 1; i < len(warnings); i++ { // which label is nearest to nonsense changes with every new one
		warnings[i], _, _ = strings.Cut(warnings[i], ";")
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("warnings\n%s\nwant\n%s", strings.Join(warnings, "\n"), strings.Join(want, "\n"))
	}
	web, metrics := l.Named["web"], l.Named["metrics"]
	if len(l.Named) != 2 || web.Port != 8080 || metrics.Port != 9100 || l.IsService() || !l.Any {
		t.Errorf("got %+v", l)
	}
	if got, want := web.Routes(), []discovery.Route{{Host: "a.example.com", Path: "/x"}}; !slices.Equal(got, want) {
		t.Errorf("routes of web: %v, want %v", got, want)
	}
	if web.Settings.Health.MaxFails != 7 || metrics.Settings.Health.MaxFails != 1 || metrics.Settings.Health.Path != "/up" ||
		web.Settings.Health.Path != "" || metrics.Settings.Balancer.String() != "round_robin" || web.Server.Weight != 1 {
		t.Errorf("settings of web %+v, of metrics %+v", web.Settings, metrics.Settings)
	}
	_, _, err = ParseLabels(map[string]string{"longshore.web.port": "80", "longshore.web.health.rise": "0", "longshore.weight": "0"}, Defaults())
	const wrong = `label longshore.weight="0": want a whole number from 1 to 65535
label longshore.web.health.rise="0": want a whole number, at least 1`
	if err == nil || err.Error() != wrong {
		t.Errorf("got\n%v\nwant\n%s", err, wrong)
	}
}

func FuzzUpstream(f *testing.F) {
	for _, seed := range []string{
		"web:5090, /api=api:8000, shop.example.com/cart=cart:80", "http://a:1/", "[::1]:80", "=", "a=b=c", "*.=x", "..=0",
		`~^/v\d{1,3}/=api:8000/x/, =/y=web, ~^a\. ~*[],]=b`, "a.b = /x = y",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var u Upstream
		if u.UnmarshalText([]byte(text)) != nil {
			return
		}
		for _, d := range u {
			if d.Name == "" || !strings.ContainsAny(d.Route.Path[:1], "/=~") || d.Route.Dest != "" && d.Route.Dest[0] != '/' {
				t.Errorf("%q gives %+v", text, d)
			}
		}
	})
}

// FuzzParseRoute: what a route is written as reads back as the same.
func FuzzParseRoute(f *testing.F) {
	for _, seed := range []string{"/a/", "*.a.b/c", "= /", "~^/x", "a.* ~*y", "~a. /", "[::1]/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRoute(text)
		if err != nil {
			return
		}
		again, err := ParseRoute(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %+v; %q reads back as %+v, %v", text, r, r.String(), again, err)
		}
		_, herr := r.HostRegexp()
		_, perr := r.PathRegexp()
		if herr != nil || perr != nil {
			t.Errorf("%q: %v, %v", text, herr, perr)
		}
	})
}
