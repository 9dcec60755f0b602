package health

import (
	"bufio"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// grpcServer is an HTTP server that speaks nothing but cleartext HTTP/2, as gRPC servers do.
func grpcServer(t testing.TB, handle http.HandlerFunc) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handle, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// reply answers with a message, given in hex without its frame, and a status.
func reply(message, status string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := hex.DecodeString(message)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(append([]byte{0, 0, 0, 0, byte(len(b))}, b...))
		w.Header().Set("Grpc-Status", status)
	}
}

func TestProbeGRPC(t *testing.T) {
	status := func(code string) http.HandlerFunc { // without a body, so in the header
		return func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Grpc-Status", code) }
	}
	raw := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, body)
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}
	}
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		accept int
		why    string
	}{
		{"serving", reply("0801", "0"), 0, ""},
		{"not serving", reply("0802", "0"), 0, "NOT_SERVING"},
		{"unknown, which is not written", reply("", "0"), 0, "UNKNOWN"},
		{"service unknown", reply("0803", "0"), 0, "SERVICE_UNKNOWN"},
		{"a status of the future", reply("0807", "0"), 0, "serving status 7"},
		{"fields of the future", reply("0801"+"12026f6b"+"18ff01", "0"), 0, ""},
		{"the last one counts", reply("08020801", "0"), 0, ""},
		{"unimplemented", status("12"), 0, "gRPC status 12 (UNIMPLEMENTED)"},
		{"unimplemented is fine", status("12"), 12, ""},
		{"serving is fine too", reply("0801", "0"), 12, ""},
		{"not serving is not", reply("0802", "0"), 12, "NOT_SERVING"},
		{"not found", status("5"), 12, "gRPC status 5 (NOT_FOUND)"},
		{"a code of the future", status("17"), 0, "gRPC status 17"},
		{"no gRPC", func(http.ResponseWriter, *http.Request) {}, 0, "the answer has no gRPC status"},
		{"a page", http.NotFound, 0, "HTTP status 404, not gRPC"},
		{"no message", raw(""), 0, "the answer is not one gRPC message"},
		{"compressed", raw("\x01\x00\x00\x00\x02\x08\x01"), 0, "the answer is not one gRPC message"},
		{"cut", raw("\x00\x00\x00\x00\x03\x08\x01"), 0, "the answer is not one gRPC message"},
		{"no protobuf", raw("\x00\x00\x00\x00\x01\x08"), 0, "the answer is no HealthCheckResponse"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := Target{Addr: grpcServer(t, tt.handle), Check: Check{Type: GRPC, GRPCStatus: tt.accept}}
			want := tt.why
			if want != "" {
				want = "gRPC health check: " + want
			}
			if why, connect := probeFor(t, 10*time.Second, target); why != want || connect {
				t.Errorf("%q, ErrConnect %v; want %q", why, connect, want)
			}
		})
	}
}

func TestProbeGRPCRequest(t *testing.T) {
	type call struct {
		method, proto, host, path, contentType, te, agent, body string
	}
	got := make(chan call, 1)
	addr := grpcServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h := r.Header
		got <- call{r.Method, r.Proto, r.Host, r.URL.Path, h.Get("Content-Type"), h.Get("Te"), h.Get("User-Agent"), hex.EncodeToString(b)}
		reply("0801", "0")(w, r)
	})
	for _, tt := range []struct {
		service, host, wantHost, body string
	}{
		{"", "", addr, "0000000000"},
		{"shop.Cart", "shop.example.com", "shop.example.com", "000000000b" + "0a09" + hex.EncodeToString([]byte("shop.Cart"))},
	} {
		target := Target{Addr: addr, Check: Check{Type: GRPC, GRPCService: tt.service, HostHeader: tt.host}}
		if why, _ := probeFor(t, 10*time.Second, target); why != "" {
			t.Error(why)
		}
		want := call{"POST", "HTTP/2.0", tt.wantHost, "/grpc.health.v1.Health/Check", "application/grpc", "trailers", "longshore-health", tt.body}
		if got := <-got; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestProbeGRPCTrouble(t *testing.T) {
	silent := func(conn net.Conn) { io.Copy(io.Discard, conn) }
	closes := func(conn net.Conn) { bufio.NewReader(conn).Peek(1) }
	for _, tt := range []struct {
		name    string
		handle  func(net.Conn)
		relay   bool
		why     string
		connect bool
	}{
		{"silent", silent, false, "gRPC health check of shop.Cart: timeout", false},
		{"closes", closes, false, "gRPC health check of shop.Cart: no answer in cleartext HTTP/2", false},
		{"docker-proxy closes", func(net.Conn) {}, true, string(errRelay), true},
		{"HTTP/1.1", answer("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), false, "gRPC health check of shop.Cart: no answer in cleartext HTTP/2", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := Target{Addr: listen(t, tt.handle), Relay: tt.relay, Check: Check{Type: GRPC, GRPCService: "shop.Cart"}}
			if why, connect := probeFor(t, 300*time.Millisecond, target); why != tt.why || connect != tt.connect {
				t.Errorf("%q, ErrConnect %v; want %q, %v", why, connect, tt.why, tt.connect)
			}
		})
	}
	if why, connect := probeFor(t, time.Second, Target{Addr: free(t), Check: Check{Type: GRPC}}); why != "connection refused" || !connect {
		t.Errorf("nothing listens: %q, ErrConnect %v", why, connect)
	}
}

// Whatever a transport starts ends with the probe.
func TestProbeGRPCLeavesNothing(t *testing.T) {
	addr := grpcServer(t, reply("0801", "0"))
	target := Target{Addr: addr, Check: Check{Type: GRPC}}
	probeFor(t, 10*time.Second, target)
	settled := func(limit int) (n int) {
		for range 1000 {
			if n = runtime.NumGoroutine(); n <= limit {
				break
			}
			time.Sleep(time.Millisecond)
		}
		return n
	}
	before := settled(0)
	for range 50 {
		if why, _ := probeFor(t, 10*time.Second, target); why != "" {
			t.Fatal(why)
		}
	}
	if n := settled(before); n > before {
		stacks := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d were there before\n%s", n, before, stacks[:runtime.Stack(stacks, true)])
	}
}

func FuzzAnswered(f *testing.F) {
	for _, s := range []string{"", "\x00\x00\x00\x00\x02\x08\x01", "\x00\x00\x00\x00\x01\x08", "\x01\xff\xff\xff\xff", "\x00\x00\x00\x00\x03\x0b\x08\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if why := (Check{}).judgeGRPC("0", b); strings.ContainsAny(why, "\r\n") {
			t.Errorf("%q: %q", b, why)
		}
	})
}
