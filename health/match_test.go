package health

import (
	"net/http"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	const body = "Welcome to nginx!\n"
	header := http.Header{"Content-Type": {"text/html"}, "X-Empty": {""}, "Via": {"one", "two"}}
	for _, tt := range []struct{ text, why string }{ // of an answer 200
		{"status 200", ""},
		{"status ! 500", ""},
		{"status ! 200", "status 200"},
		{"status 200 204", ""},
		{"status 204 301-303", "status 200"},
		{"status 200-399", ""},
		{"status ! 400-599", ""},
		{"status ! 301 100-399", "status 200"},
		{"status 200; status ! 200", "status 200"},

		{"header Content-Type", ""},
		{"header content-type", ""},
		{"header X-Empty", ""},
		{"header Host", "header Host is missing"},
		{"header ! X-Accel-Redirect", ""},
		{"header ! Content-Type", "header Content-Type is set"},
		{"header Content-Type = text/html", ""},
		{"header Content-Type = text", "header Content-Type does not match = text"},
		{"header Content-Type != text/plain", ""},
		{"header Content-Type != text/html", "header Content-Type does not match != text/html"},
		{"header Content-Type ~ ^text", ""},
		{"header Content-Type ~ json", "header Content-Type does not match ~ json"},
		{"header Content-Type !~ json", ""},
		{"header Content-Type !~ html", "header Content-Type does not match !~ html"},
		{"header X-None != a", "header X-None is missing"},
		{"header X-None !~ a", "header X-None is missing"},
		{`header X-Empty = ""`, ""},
		{"header Via = two", ""},
		{"header Via != two", "header Via does not match != two"},
		{"header Via !~ o$", "header Via does not match !~ o$"},

		{`body ~ "Welcome to nginx!"`, ""},
		{`body !~ 'maintenance mode'`, ""},
		{"body ~ welcome", "body does not match ~ welcome"},
		{"body ~ (?i)welcome", ""},
		{`body !~ "to nginx"`, `body does not match !~ "to nginx"`},
		{"status 200; header Via; body ~ ^ok$", "body does not match ~ ^ok$"},
		{"\n\tstatus 200;\n\theader Content-Type = text/html;\n\tbody ~ \"Welcome to nginx!\";\n", ""},
	} {
		all, err := parseMatch(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		why := all.judge("status", 200, header, []byte(body))
		for _, subject := range []string{"header", "body"} {
			if why == "" {
				why = all.judge(subject, 200, header, []byte(body))
			}
		}
		if why != tt.why {
			t.Errorf("%q: %q, want %q", tt.text, why, tt.why)
		}
	}
}

func TestMatchCanonical(t *testing.T) {
	for text, want := range map[string]string{
		"status 200":                          "status 200",
		";; status  200-200 ;":                "status 200",
		"status ! 500 502":                    "status ! 500 502",
		"'header' content-type ~ json;body~":  "",
		"header content-type   ~ 'json'":      "header Content-Type ~ json",
		"header X = '='":                      "header X = =",
		`header X = ""`:                       `header X = ""`,
		`body ~ "a;b c"`:                      `body ~ "a;b c"`,
		`body ~ \d+\.`:                        `body ~ "\\d+\\."`,
		`body ~ "\d+\\."`:                     `body ~ "\\d+\\."`,
		`body ~ 'say "hi"'`:                   `body ~ "say \"hi\""`,
		`body ~ a\ b`:                         `body ~ "a\\ b"`,
		`body ~ "a\tb"`:                       `body ~ "a\tb"`,
		"status 200; body ~ ok; header ! Via": "status 200; body ~ ok; header ! Via",
	} {
		var m Match
		err := m.UnmarshalText([]byte(text))
		if (err != nil) != (want == "") || m.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, m, err, want)
		}
		if want == "" {
			continue
		}
		var again Match
		if err := again.UnmarshalText([]byte(want)); err != nil || again != m {
			t.Errorf("%q reads as %q, %v", want, again, err)
		}
	}
}

func TestMatchRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":  `want clauses such as status 200-399; header Content-Type ~ json; body ~ "ok|ready"`,
		";": `want clauses such as status 200-399; header Content-Type ~ json; body ~ "ok|ready"`,

		"server 1":        `"server 1": want a clause that begins with status, header or body`,
		"require $good":   `"require $good": there are no variables to require: want status, header or body`,
		"status":          `"status": want status codes such as 200 301-303, or ! 500`,
		"status !":        `"status !": want status codes such as 200 301-303, or ! 500`,
		"status 200,204":  `"status 200,204": "200,204": want status codes such as 200 301-303, or ! 500`,
		"status 99":       `"status 99": "99": want status codes such as 200 301-303, or ! 500`,
		"header":          `"header": want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces`,
		"header !":        `"header !": want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces`,
		"header A: b":     `"header A: b": want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces`,
		"header A = b c":  `"header A = b c": want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces`,
		"header ! A = b":  `"header ! A = b": want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces`,
		"header A ~* b":   `"header A ~* b": "~*": want =, !=, ~ or !~`,
		"body = ok":       `"body = ok": want body ~ or body !~ and a regular expression, in quotes if it has spaces`,
		"body ~ a b":      `"body ~ a b": want body ~ or body !~ and a regular expression, in quotes if it has spaces`,
		"body ~ (":        `"body ~ (": regular expression: missing closing ): "("`,
		"body ~ (?=ok)":   `"body ~ (?=ok)": regular expression: invalid or unsupported Perl syntax: "(?="`,
		`body ~ "ok`:      `"\"ok": the quote is not closed`,
		`body ~ "ok"ay`:   `"ay": want a space or a semicolon behind the quote`,
		"status 200; foo": `"foo": want a clause that begins with status, header or body`,
	} {
		m := Match{"before"}
		if err := m.UnmarshalText([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q\n got %v\nwant %s", text, err, want)
		}
		if m != (Match{"before"}) {
			t.Errorf("%q: an error, and the match has changed", text)
		}
	}
}

// TestLongReasons: a failed check does not repeat a label of any length.
func TestLongReasons(t *testing.T) {
	long := strings.Repeat("x", 600_000)
	var m Match
	if err := m.UnmarshalText([]byte("header X = " + long + "; body ~ " + long[:900])); err != nil {
		t.Fatal(err)
	}
	all, _ := parseMatch(m.text)
	for _, got := range []string{
		all.judge("header", 0, http.Header{"X": {"y"}}, nil), all.judge("body", 0, nil, nil),
		Check{Path: "/" + long}.failed("no").Error(), Check{Type: GRPC, GRPCService: long}.failed("no").Error(),
	} {
		if !strings.Contains(got, strings.Repeat("x", 199)+"…") && !strings.Contains(got, strings.Repeat("x", 200)+"…") || len(got) > 300 {
			t.Errorf("%d bytes: %.300s", len(got), got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, text := range []string{
		`status 200-399; header Content-Type ~ json; header ! X-Maintenance; body ~ "ok|ready"; body !~ error`,
		`status ! 500 502;body ~ "a\"b\\c\td"`, `header X = ''`, `body ~ \;`, "body ~ 'a", `"status" 200`, "header ! ! x", `body ~ x\`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var m, again Match
		if m.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(m.String())); err != nil || again != m {
			t.Errorf("%q: canonical %q reads as %q, %v", text, m, again, err)
		}
		all, err := parseMatch(m.text)
		if err != nil || len(all) == 0 {
			t.Errorf("%q: %d clauses, %v", text, len(all), err)
		}
		for _, subject := range []string{"status", "header", "body"} {
			all.judge(subject, 200, http.Header{"X": {""}}, nil)
		}
	})
}

func BenchmarkParseMatch(b *testing.B) {
	for b.Loop() {
		parseMatch(`status 200-399; header Content-Type ~ json; header ! X-Maintenance; body ~ "ok|ready"; body !~ error`)
	}
}
