package discovery

import (
	"strings"
	"testing"
	"time"
)

func TestSticky(t *testing.T) {
	for text, want := range map[string]Sticky{
		"off":               {},
		"cookie srv_id":     {Mode: StickyCookie, Cookie: "srv_id"},
		" sticky cookie s;": {text: "cookie s", Mode: StickyCookie, Cookie: "s"},
		"cookie s expires=1h domain=.example.com path=/app httponly secure samesite=Lax": {
			Mode: StickyCookie, Cookie: "s", Expires: time.Hour, Domain: ".example.com", Path: "/app", HTTP: true, Secure: true, Same: "lax"},
		"cookie s expires=max":                {Mode: StickyCookie, Cookie: "s", Expires: 87600 * time.Hour},
		"route $cookie_JSESSIONID $arg_route": {Mode: StickyRoute, Lookup: "$cookie_JSESSIONID $arg_route"},
		"learn create=$upstream_cookie_s lookup=$cookie_s zone=c:2m timeout=60": {
			Mode: StickyLearn, Create: "$upstream_cookie_s", Lookup: "$cookie_s", Timeout: time.Minute, Most: 8000},
		"learn lookup=$http_x_s create=$upstream_http_x_s header": {
			Mode: StickyLearn, Create: "$upstream_http_x_s", Lookup: "$http_x_s", Timeout: 10 * time.Minute, Most: 4000},
	} {
		var got Sticky
		if err := got.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if want.Mode != StickyOff && want.text == "" {
			want.text = text
		}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
}

func TestStickyErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "want cookie NAME",
		"cookie":                          "want cookie NAME",
		"cookie a=b":                      `cookie name "a=b"`,
		"cookie s expire=1h":              `unknown parameter "expire"`,
		"cookie s expires=soon":           `time "soon"`,
		"cookie s samesite=some":          "want samesite=strict, lax or none",
		"cookie s domain=-":               "domain and path",
		"route":                           "want cookie NAME",
		"route $uri":                      `variable "$uri": want $cookie_NAME or $arg_NAME or $http_NAME`,
		"route $cookie_":                  `variable "$cookie_"`,
		"route $cookie_a,$cookie_b":       `variable "$cookie_a,$cookie_b"`,
		"route $cookie_a;;":               "want no quotes, semicolons",
		"cookie s httponly=;;":            "want no quotes, semicolons",
		`cookie "s"`:                      "want no quotes, semicolons",
		"learn create=$upstream_cookie_":  `variable "$upstream_cookie_"`,
		"learn create=$upstream_cookie_a": "want cookie NAME",
		"learn create=$upstream_cookie_a lookup=$cookie_a zone=x:10k":  "want zone=NAME:SIZE",
		"learn create=$upstream_cookie_a lookup=$cookie_a zone=x:1m x": `unknown parameter "x"`,
	} {
		s := Sticky{Cookie: "before"}
		err := s.UnmarshalText([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want one line with %q", text, err, want)
		}
		if s.Cookie != "before" {
			t.Errorf("%q: the error changed it to %+v", text, s)
		}
	}
}

func FuzzSticky(f *testing.F) {
	for _, seed := range []string{"off", "cookie s expires=1h domain=a.b path=/ secure;", "route $cookie_a $arg_b", "learn create=$upstream_cookie_a lookup=$cookie_a zone=z:1m", "cookie s secure=;;", "route $cookie_a;;"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, again Sticky
		if s.UnmarshalText([]byte(text)) != nil || s.Mode == StickyOff {
			return
		}
		canonical, _ := s.MarshalText()
		if err := again.UnmarshalText(canonical); err != nil || again != s {
			t.Errorf("%q: %+v, and parsed again %+v, %v", text, s, again, err)
		}
	})
}
