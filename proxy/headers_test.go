package proxy

import "testing"

func TestPortOf(t *testing.T) {
	for host, want := range map[string]string{
		"": "80", "a": "80", "a:": "80", "a:81": "81", "a:0": "0", "a:65535": "65535", "a.b-c_d:081": "081", "1.2.3.4:81": "81", ":81": "81",
		"[::1]": "80", "[::1]:": "80", "[::1]:81": "81", "[::ffff:1.2.3.4]:81": "81", "[fe80::1%25eth0]": "80", "a%5Bb": "80",

		"a:b": "bad", "a:80:80": "bad", "a::": "bad", "::1": "bad", "a:65536": "bad", "a:99999": "bad", "a:+80": "bad", "a:-1": "bad", "a: 80": "bad",
		"a:99999999999999999999999999": "bad", "a:18446744073709551696": "bad",
		"[::1": "bad", "::1]": "bad", "[": "bad", "]": "bad", "[]": "bad", "[a]b": "bad", "[a]": "bad", "[::1]b": "bad", "[::1]81": "bad", "[::1]]": "bad",
		"[[::1]]": "bad", "[::1]:b": "bad", "[::1]:81:81": "bad", "[1.2.3.4]": "bad", "a[::1]": "bad", "a[b": "bad", "a]:81": "bad", "[::1]:]": "bad",
	} {
		got, ok := portOf(host)
		if !ok {
			got = "bad"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", host, got, want)
		}
	}
}
