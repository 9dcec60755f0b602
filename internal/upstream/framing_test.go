package upstream

import (
	"fmt"
	"net/http"
	"testing"
)

func TestPlainLength(t *testing.T) {
	for given, want := range map[string]string{"5": "5", "0": "0", "005": "5", "00": "0", "50": "50"} {
		h := http.Header{"Content-Length": {given}}
		if plainLength(h); h.Get("Content-Length") != want {
			t.Errorf("%s: got %s, want %s", given, h.Get("Content-Length"), want)
		}
	}
	plainLength(http.Header{})
}

func TestDropTrailers(t *testing.T) {
	h := http.Header{
		"Sum": {"1"}, "Grpc-Status": {"0"}, "Content-Digest": {"x"}, "Server-Timing": nil, "A_b": {"c"}, "Ifs": {"d"},
		"Content-Length": {"5"}, "Content_length": {"5"}, "Transfer_Encoding": {"x"}, "Host": {"x"}, "Connection": nil, "Upgrade": {"x"},
		"Authorization": {"x"}, "Cookie": {"x"}, "Proxy": {"x"}, "X-Real-Ip": {"x"}, "X_real_ip": {"x"}, "X-Forwarded-For": {"x"},
		"X-Forwarded_Whatever": {"x"}, "Forwarded": {"x"}, "If-Match": {"x"}, "a b": {"x"}, "": {"x"}, "\x80": nil, "Hop": {"x"}, "Other-Hop": {"x"},
	}
	DropTrailers(h, []string{"close, hop", "OTHER-HOP"})
	want := http.Header{"Sum": {"1"}, "Grpc-Status": {"0"}, "Content-Digest": {"x"}, "Server-Timing": nil, "A_b": {"c"}, "Ifs": {"d"}}
	if fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", h, want)
	}
	DropTrailers(nil, []string{"x"})
}
