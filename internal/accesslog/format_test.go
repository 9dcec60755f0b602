package accesslog

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"longshore/proxy"
)

func TestCombined(t *testing.T) {
	bare := proxy.Record{Time: record.Time, ClientIP: "::1", Method: "POST", URI: "/", Proto: "HTTP/1.0", Status: 502}
	later := bare
	later.Time = bare.Time.Add(time.Second)
	got := logOf(t, "combined", record, bare, later, bare)
	want := `192.0.2.7 - ann [23/Nov/2026:01:02:03 +0000] "GET /a?b=\x22c\x22\x01 HTTP/1.1" 200 42 "-" "curl/8\x0A"
::1 - - [23/Nov/2026:01:02:03 +0000] "POST / HTTP/1.0" 502 0 "-" "-"
::1 - - [23/Nov/2026:01:02:04 +0000] "POST / HTTP/1.0" 502 0 "-" "-"
::1 - - [23/Nov/2026:01:02:03 +0000] "POST / HTTP/1.0" 502 0 "-" "-"
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestCombinedUnread: of a request that could not be read there may be any part of the request line, or none.
func TestCombinedUnread(t *testing.T) {
	for _, c := range []struct {
		method, uri, proto, want string
	}{
		{"", "\x16\x03\"\n", "", `"\x16\x03\x22\x0A"`},
		{"GET", "/", "", `"GET /"`},
		{"", "/", "HTTP/1.1\x00", `"/ HTTP/1.1\x00"`},
		{"", "", "", `"-"`},
	} {
		got := logOf(t, "combined", proxy.Record{Time: record.Time, ClientIP: "::1", Method: c.method, URI: c.uri, Proto: c.proto, Status: 400})
		if want := "::1 - - [23/Nov/2026:01:02:03 +0000] " + c.want + " 400 0 \"-\" \"-\"\n"; got != want {
			t.Errorf("got %swant %s", got, want)
		}
	}
}

func TestEscaped(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ``},
		{"plain ~", `plain ~`},
		{`"`, `\x22`},
		{`a\"b`, `a\x5C\x22b`},
		{"\x00\x1f\x7f\xffé", `\x00\x1F\x7F\xFF\xC3\xA9`},
		{"a\nb\r", `a\x0Ab\x0D`},
	} {
		if got := string(appendEscaped(nil, []byte(c.in))); got != c.want {
			t.Errorf("%q: %s, want %s", c.in, got, c.want)
		}
	}
}

func TestJSON(t *testing.T) {
	got := logOf(t, "json", record)
	var line map[string]any
	if err := json.Unmarshal([]byte(got), &line); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	for key, want := range map[string]any{
		"remote_addr": "192.0.2.7", "uri": record.URI, "status": 200.0, "bytes": 42.0, "duration": 0.0015,
		"service": "web", "upstream": "10.0.0.2:80, 10.0.0.3:80", "user_agent": "curl/8\n", "time": "2026-11-23T01:02:03Z",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}

// marshaled is a line as encoding/json writes it.
func marshaled(t *testing.T, r proxy.Record) string {
	t.Helper()
	line, err := json.Marshal(struct {
		Time      string      `json:"time"`
		ClientIP  string      `json:"remote_addr"`
		User      string      `json:"remote_user,omitempty"`
		Method    string      `json:"method"`
		Host      string      `json:"host"`
		URI       string      `json:"uri"`
		Proto     string      `json:"proto"`
		Status    int         `json:"status"`
		Bytes     int64       `json:"bytes"`
		Duration  json.Number `json:"duration"` // a float64 would have an exponent below a microsecond
		Service   string      `json:"service,omitempty"`
		Upstream  string      `json:"upstream,omitempty"`
		Reason    string      `json:"reason,omitempty"`
		Referer   string      `json:"referer,omitempty"`
		UserAgent string      `json:"user_agent,omitempty"`
	}{
		r.Time.Format(time.RFC3339Nano), r.ClientIP, r.User, r.Method, r.Host, r.URI, r.Proto,
		r.Status, r.Bytes, json.Number(strconv.FormatFloat(r.Duration.Seconds(), 'f', -1, 64)),
		r.Service, r.Upstream, r.Reason, r.Referer, r.UserAgent,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + "\n"
}

// TestJSONBytes compares every byte and every short rune, alone and among others, with encoding/json.
func TestJSONBytes(t *testing.T) {
	var all strings.Builder
	check := func(s string) {
		t.Helper()
		r := record
		r.URI, r.Referer = s, "a"+s+"b"
		if got, want := logOf(t, "json", r), marshaled(t, r); got != want {
			t.Errorf("%q: got\n%swant\n%s", s, got, want)
		}
		all.WriteString(s)
	}
	for c := range 256 {
		check(string([]byte{byte(c)}))
	}
	for _, c := range []rune{0x80, 'é', 0x7ff, 0x800, 0x2027, 0x2028, 0x2029, 0x202a, 0xfffd, 0xffff, 0x10000, 0x10ffff} {
		check(string(c))
		check(string(c)[1:])                       // not its beginning
		check(string(c)[:len(string(c))-1])        // not its end
		check(string(c)[:len(string(c))-1] + "\"") // something else in its place
	}
	check("\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80") // a surrogate, too long a form, beyond the last rune
	check(all.String())
}

func FuzzJSON(f *testing.F) {
	f.Add("", "", "", int64(0), int64(0), int64(0))
	f.Add("ann", "/<a>&\"\\\u2028\xff\n", "web", int64(123456789), int64(1500000), int64(-1))
	f.Add("\xc3", "\xe2\x80", "\xa8", int64(1<<62), int64(999), int64(1<<40))
	f.Fuzz(func(t *testing.T, a, b, c string, at, took, n int64) {
		r := proxy.Record{
			Time: time.Unix(0, at), Duration: time.Duration(took), Status: int(int16(n)), Bytes: n,
			ClientIP: a, User: b, Method: c, Host: a + b, URI: b + c, Proto: a, Service: b, Upstream: c, Reason: a, Referer: a, UserAgent: c + a,
		}
		if got, want := logOf(t, "json", r), marshaled(t, r); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}
