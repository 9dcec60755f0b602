package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// crlf writes the lines of a message as they go over the wire: "\n" stands for CRLF, "\\n" for a bare LF.
func crlf(s string) []byte {
	return []byte(strings.NewReplacer("\\n", "\n", "\n", "\r\n").Replace(s))
}

var requests = []struct {
	in   string
	want Verdict
}{
	{"GET / HTTP/1.1\nHost: a\n\n", Plain},
	{"GET /a|b%2Fc?x=%zz#d HTTP/1.1\nHost: a\n\n", Other}, // a fragment
	{"GET /a|b%2Fc?x=%zz HTTP/1.1\nHost: a\n\n", Plain},
	{"GET /%zz HTTP/1.1\nHost: a\n\n", Other},
	{"GET /%4 HTTP/1.1\nHost: a\n\n", Other},
	{"GET /a?%00%0a HTTP/1.1\nHost: a\n\n", Plain},
	{"GET /%20%7e%80 HTTP/1.1\nHost: a\n\n", Plain},
	{"GET /%00 HTTP/1.1\nHost: a\n\n", Other},
	{"GET /%0a HTTP/1.1\nHost: a\n\n", Other},
	{"GET /%1F HTTP/1.1\nHost: a\n\n", Other},
	{"GET /%7F HTTP/1.1\nHost: a\n\n", Other},
	{"GET /%0", Other},
	{"GET /%7", Partial},
	{"GET //x/y HTTP/1.1\nHost: A.Example:80\n\n", Plain},
	{"POST /a HTTP/1.1\nHost: [::1]:80\nContent-Length: 5\n\nhello", Plain},
	{"PUT /a HTTP/1.1\nhost:a\ncontent-length:0\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nConnection: close\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nConnection: Keep-Alive\nKeep-Alive: timeout=5\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nUser-Agent: \nUser-Agent: b\nReferer: c\nAuthorization: Basic d\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nX: caf\xe9\tau  lait \nY:\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nProxy: b\nX-Forwarded-For: c\nX-REAL-IP: d\nForwarded: for=e\nProxy-Connection: keep-alive\n\n", Plain},
	{"GET / HTTP/1.1\nHo", Partial},
	{"GET / HTTP/1.1\nHost: a\n", Partial},
	{"GET / HTTP/1.1\nHost: a\n\r", Partial},
	{"G", Partial},
	{"", Partial},
	{"GETS / HTTP/1.1\nHost: a\n\n", Other},
	{"get / HTTP/1.1\nHost: a\n\n", Other},
	{"CONNECT a:1 HTTP/1.1\nHost: a\n\n", Other},
	{"PRI * HTTP/2.0\n\nSM\n\n", Other},
	{"OPTIONS * HTTP/1.1\nHost: a\n\n", Other},
	{"GET http://a/ HTTP/1.1\nHost: a\n\n", Other},
	{"GET  / HTTP/1.1\nHost: a\n\n", Other},
	{"GET /  HTTP/1.1\nHost: a\n\n", Other},
	{"GET /a b HTTP/1.1\nHost: a\n\n", Other},
	{"GET / HTTP/1.0\nHost: a\n\n", Other},
	{"GET / HTTP/1.1 \nHost: a\n\n", Other},
	{"GET / http/1.1\nHost: a\n\n", Other},
	{"GET /\xe4 HTTP/1.1\nHost: a\n\n", Other},
	{"GET / HTTP/1.1\\nHost: a\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\n\\n", Other},
	{"GET / HTTP/1.1\nHost: a\n\\nX", Other},
	{"\nGET / HTTP/1.1\nHost: a\n\n", Other},
	{"GET / HTTP/1.1\n\n", Other},
	{"GET / HTTP/1.1\n Host: a\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nHost: a\n\n", Other},
	{"GET / HTTP/1.1\nHost: a, b\n\n", Other},
	{"GET / HTTP/1.1\nHost: a@b\n\n", Other},
	{"GET / HTTP/1.1\nHost:\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX: b\n c\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX : b\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\n: b\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX: \x00\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX: 0123456\x7f89\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX: b\rc\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX_Real_IP: b\nContent_Length: 5\n\n", Plain},
	{"GET / HTTP/1.1\nHost: a\nX.Real.IP: b\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nX-Forwarded-User: b\nX-Original-URL: c\nLongshore-Hops: 1\nMax-Forwards: 0\n\n", Plain},
	{"OPTIONS / HTTP/1.1\nHost: a\nMax-Forwards: 0\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5\n\nhello", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length: +5\n\nhello", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length: 05\n\nhello", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length: 5, 5\n\nhello", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length:\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nContent-Length: 9999999999999999999\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nUpgrade: websocket\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nConnection: upgrade\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nConnection: close, x\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nConnection: close\nConnection: close\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nExpect: 100-continue\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nTE: trailers\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nTrailer: x\n\n", Other},
	{"GET / HTTP/1.1\nHost: a\nHTTP2-Settings: x\n\n", Other},
}

func TestRequest(t *testing.T) {
	for _, c := range requests {
		var r Request
		if got := r.Parse(crlf(c.in), Rules{}); got != c.want {
			t.Errorf("%q is %d, want %d", c.in, got, c.want)
		}
		sameRequest(t, crlf(c.in), uint(len(c.in)))
	}
}

func FuzzRequest(f *testing.F) {
	for i, c := range requests {
		f.Add(crlf(c.in), uint(7*i))
	}
	f.Fuzz(func(t *testing.T, buf []byte, cut uint) { sameRequest(t, buf, cut) })
}

// notOurs reports whether a field of a request is not passed on.
func notOurs(name string, _ []string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Proxy", "Longshore-Hops":
		return true
	}
	return IsClaim([]byte(name)) || strings.Contains(name, "_")
}

// sameRequest checks that a request which is plain is read by net/http in the same way, and so is what is
// kept of it, and that all it begins with is the beginning of something plain.
func sameRequest(t *testing.T, buf []byte, cut uint) {
	t.Helper()
	var r Request
	if r.Parse(buf, Rules{}) != Plain {
		return
	}
	if r.Size > len(buf) {
		t.Fatalf("the head of %q has %d bytes", buf, r.Size)
	}
	src := bytes.NewReader(buf)
	br := bufio.NewReader(src)
	req, err := http.ReadRequest(br)
	if err != nil {
		t.Fatalf("%q: net/http says %v", buf, err)
	}
	type reading struct {
		Method, Target, Path, Host, UserAgent, Referer, Authorization string
		Length                                                        int64
		Close, Coded                                                  bool
		Rest, Codings                                                 int
	}
	path := string(AppendDecoded(nil, r.Path.Of(buf)))
	raw, _, _ := strings.Cut(req.RequestURI, "?")
	want := reading{
		Method: req.Method, Target: req.RequestURI, Path: req.URL.Path, Host: req.Host, UserAgent: req.UserAgent(), Referer: req.Referer(),
		Authorization: req.Header.Get("Authorization"), Length: req.ContentLength, Close: req.Close, Coded: strings.Contains(raw, "%"),
		Rest: br.Buffered() + src.Len(), Codings: len(req.TransferEncoding),
	}
	got := reading{
		Method: r.Method, Target: string(r.Target.Of(buf)), Path: path, Host: string(r.Host.Of(buf)), UserAgent: string(r.UserAgent.Of(buf)),
		Referer: string(r.Referer.Of(buf)), Authorization: string(r.Authorization.Of(buf)), Length: r.Length, Close: r.Close, Coded: r.Coded,
		Rest: len(buf) - r.Size,
	}
	if got != want {
		t.Fatalf("%q is read as\n%+v\nby net/http as\n%+v", buf, got, want)
	}
	if len(req.Trailer) > 0 || req.Header.Get("Expect") != "" || req.Header.Get("Upgrade") != "" || req.ProtoAtLeast(1, 2) || !req.ProtoAtLeast(1, 1) {
		t.Fatalf("%q is not plain", buf)
	}

	kept := r.Cuts.AppendKept(nil, buf, 0, r.Size)
	out, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(kept)))
	if err != nil {
		t.Fatalf("%q: net/http says of what is kept, %q: %v", buf, kept, err)
	}
	maps.DeleteFunc(req.Header, notOurs)
	if out.Host != req.Host || out.RequestURI != req.RequestURI || !sameHeader(out.Header, req.Header) {
		t.Fatalf("%q: kept is %q", buf, kept)
	}
	if cut %= uint(r.Size); r.Parse(buf[:cut], Rules{}) != Partial {
		t.Fatalf("%q is plain, and %q not the beginning of it", buf, buf[:cut])
	}
}

// sameHeader compares headers. To requests with Pragma: no-cache net/http adds a Cache-Control.
func sameHeader(a, b http.Header) bool {
	return maps.EqualFunc(a, b, slices.Equal)
}

var responses = []struct {
	in   string
	want Verdict
}{
	{"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Plain},
	{"HTTP/1.1 200 \nContent-Length: 2\nDate: now\n\nok", Plain},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\nKeep-Alive: timeout=5\n\nok", Plain},
	{"HTTP/1.1 404 Not Found\ntransfer-encoding: Chunked\n\n2\nok\n0\n\n", Plain},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2;x=y\nok\nA\n0123456789\n0\nX: y\n\nHTTP/1.1", Plain},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok0\n\n", Plain},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n-2\nok\n0\n\n", Plain},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\nContent-Length: 5\n\n", Plain},
	{"HTTP/1.1 204 No Content\n\n", Plain},
	{"HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n", Plain},
	{"HTTP/1.1 500 \nContent-Length: 0\n\n", Plain},
	{"HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Length: 2\n\nok", Plain},
	{"HTTP/1.1 302 Found\nContent-Length: 0\nlocation: /a \nRefresh: 5; url=/b\n\n", Plain},
	{"HTTP/1.1 302 Found\nContent-Length: 0\nLocation: /a\nLocation: /b\n\n", Other},
	{"HTTP/1.1 20", Partial},
	{"HTTP/1.1 200 OK\nContent-Len", Partial},
	{"HTTP/1.1 200 OK\nContent-Type: Text/Event-Stream; charset=utf-8\nTransfer-Encoding: chunked\n\n", Other},
	{"HTTP/1.1 200\nContent-Length: 0\n\n", Other},
	{"HTTP/1.0 200 OK\nContent-Length: 2\n\nok", Other},
	{"HTTP/1.1 200 OK\n\nok", Other},
	{"HTTP/1.1 100 Continue\n\n", Other},
	{"HTTP/1.1 101 Switching Protocols\n\n", Other},
	{"HTTP/1.1 999 \nContent-Length: 0\n\n", Other},
	{"HTTP/1.1 2x0 OK\nContent-Length: 0\n\n", Other},
	{"HTTP/1.1 204 No Content\nContent-Length: 5\n\n", Other},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok", Other},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\nok", Other},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n", Other},
	{"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X\n\n0\n\n", Other},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nConnection: content-length\n\nok", Other},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nUpgrade: h2c\n\nok", Other},
	{"HTTP/1.1 200 OK\\nContent-Length: 2\n\nok", Other},
	{"HTTP/1.1 200 OK\nContent-Length: 2\nX: a\n b\n\nok", Other},
	{"HTTP/1.1 200 OK\nContent-Length : 2\n\nok", Other},
	{"SSH-2.0\n", Other},
}

func TestResponse(t *testing.T) {
	for _, c := range responses {
		var r Response
		if got := r.Parse(crlf(c.in), false); got != c.want {
			t.Errorf("%q is %d, want %d", c.in, got, c.want)
		}
		sameResponse(t, crlf(c.in), false, uint(len(c.in)))
		sameResponse(t, crlf(c.in), true, uint(len(c.in)))
	}
	var r Response
	if got := r.Parse(crlf("HTTP/1.1 200 OK\n\n"), true); got != Plain {
		t.Errorf("a response to HEAD without a length is %d, want plain", got)
	}
}

func FuzzResponse(f *testing.F) {
	for i, c := range responses {
		f.Add(crlf(c.in), i%3 == 0, uint(7*i))
	}
	f.Fuzz(sameResponse)
}

// sameResponse checks that net/http reads a plain response in the same way, its body included, and so it
// does what is kept of it, and that all it begins with is the beginning of something plain.
func sameResponse(t *testing.T, buf []byte, toHead bool, cut uint) {
	t.Helper()
	var r Response
	if r.Parse(buf, toHead) != Plain {
		return
	}
	req := &http.Request{Method: "GET"}
	if toHead {
		req.Method = "HEAD"
	}
	src := bytes.NewReader(buf)
	br := bufio.NewReader(src)
	res, err := http.ReadResponse(br, req)
	if err != nil {
		t.Fatalf("%q: net/http says %v", buf, err)
	}
	if rest := br.Buffered() + src.Len(); rest != len(buf)-r.Size {
		t.Fatalf("%q: the head has %d bytes, for net/http %d", buf, r.Size, len(buf)-rest)
	}
	_, hasDate := res.Header["Date"]
	if got, want := string(r.Location.Of(buf))+string(r.Refresh.Of(buf)), res.Header.Get("Location")+res.Header.Get("Refresh"); got != want {
		t.Fatalf("%q leads to %q, for net/http to %q", buf, got, want)
	}
	if res.StatusCode != r.Status || res.Close != r.Close || hasDate != r.HasDate || !res.ProtoAtLeast(1, 1) || len(res.Trailer) > 0 || res.StatusCode < 200 {
		t.Fatalf("%q is read as %+v, by net/http as %+v", buf, r, res)
	}

	kept := r.Cuts.AppendKept(nil, buf, 0, r.Size)
	out, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(kept)), req)
	if err != nil {
		t.Fatalf("%q: net/http says of what is kept, %q: %v", buf, kept, err)
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization"} {
		delete(res.Header, name)
	}
	maps.DeleteFunc(res.Header, func(name string, _ []string) bool { return IsDirective([]byte(name)) })
	if out.StatusCode != res.StatusCode || out.ContentLength != res.ContentLength || !sameHeader(out.Header, res.Header) {
		t.Fatalf("%q: kept is %q", buf, kept)
	}

	body, err := io.ReadAll(res.Body)
	rest := br.Buffered() + src.Len()
	switch all := buf[r.Size:]; {
	case r.Length == Chunked:
		sameChunks(t, all, body, rest, res.Trailer, err)
	case int64(len(all)) < r.Length:
		if err == nil {
			t.Fatalf("%q is whole for net/http", buf)
		}
	case err != nil || int64(len(body)) != r.Length || int64(rest) != int64(len(all))-r.Length:
		t.Fatalf("%q has a body of %d, for net/http of %d and %d are left: %v", buf, r.Length, len(body), rest, err)
	}
	if cut %= uint(r.Size); r.Parse(buf[:cut], toHead) != Partial {
		t.Fatalf("%q is plain, and %q not the beginning of it", buf, buf[:cut])
	}
}

// bodies are in chunks. What is passed on of each is what net/http reads of it.
var bodies = []string{
	"0\n\n",
	"2\nok\n0\n\nHTTP/1.1 200 OK\n",
	"00a\n0123456789\n000\n\n",
	"000000000000000A\n0123456789\n0000000000000000\n\n",     // 16 digits
	"0000000000000000a\n0123456789\n0\n\n",                   // 17
	"FFFFFFFFFFFFFFFF\n0123456789\n0\n\n",                    // more than there is
	"2 \t\nok\n0 \n\n",                                       // padding
	"2 ;x\nok\n0\n\n",                                        // behind it nothing may come
	" 2\nok\n0\n\n",                                          //
	"2;a=b;c=\"d e\"\nok\n0;x\n\n",                           // extensions
	"2;a=b\\nok\n0\n\n",                                      // a bare LF
	"2\\nok\n0\n\n",                                          //
	";a\nok\n0\n\n",                                          // no size
	"2\nokk\n0\n\n",                                          // more than its size
	"2\nok\n0\nSum: 1\nset-cookie: a=b\nB:\n\nHTTP/1.1",      // trailers
	"2\nok\n0\nSum: 1\n 2\\nx: y\n\n",                        // folded, and a bare LF
	"2\nok\n0\nSum: 1\\n\\nHTTP/1.1 200 OK\n\n",              // an end of bare LFs
	"2\nok\n0\n\\nHTTP/1.1 200 OK\n\n",                       //
	"2\nok\n0\na b: c\nContent_Length: 3\nHost: d\nE: f\n\n", // no name, and names that must not be there
	"2\nok\n0\n: a\n\n",
	"2\nok\n0\nA: \x00\n\n",
	"2\nok\n0\n a\n\n",
	"2\nok\n0\nno colon\n\n",
	strings.Repeat("3e8;sig="+strings.Repeat("a", 64)+"\n"+strings.Repeat("x", 1000)+"\n", 200) + "0\n\n",
	strings.Repeat("1;"+strings.Repeat("a", 20)+"\nx\n", 2000) + "0\n\n",                   // more beside the data than net/http takes
	"1;" + strings.Repeat("a", 4092) + "\nx\n0;" + strings.Repeat("a", 4092) + "\n\n",      // the longest lines
	"1;" + strings.Repeat("a", 4093) + "\nx\n0\n\n",                                        //
	"1\nx\n0\nSum: 1\nLong: " + strings.Repeat("a", 4078) + "\n\n",                         // the longest trailers
	"1\nx\n0\nSum: 1\nLong: " + strings.Repeat("a", 4079) + "\n\n",                         //
	"1\nx\n0\n" + strings.Repeat("A: b\n", 600) + "\n",                                     // many
	strings.Repeat("400\n"+strings.Repeat("y", 1024)+"\n", 20) + "0\nServer-Timing: a\n\n", // through buffers
}

func TestChunks(t *testing.T) {
	for _, b := range bodies {
		readChunks(t, crlf(b))
	}
}

func FuzzChunks(f *testing.F) {
	for _, b := range bodies {
		f.Add(crlf(b))
	}
	f.Fuzz(readChunks)
}

func readChunks(t *testing.T, all []byte) {
	src := bytes.NewReader(all)
	br := bufio.NewReader(io.MultiReader(strings.NewReader(chunkedHead), src))
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	sameChunks(t, all, body, br.Buffered()+src.Len(), res.Trailer, err)
}

const chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

// sameChunks compares what Chunks makes of a body, all at once and in pieces, with how net/http read it: whatever is
// whole for one is whole for the other, with the same end, and net/http reads the same of what is passed on.
func sameChunks(t *testing.T, all, body []byte, rest int, trailers http.Header, err error) {
	t.Helper()
	var c Chunks
	kept, behind, done, ok := c.Next(bytes.Clone(all))
	if done != (err == nil) || done && (!ok || len(behind) != rest) || c.Data != int64(len(body)) {
		t.Fatalf("%.300q has %d bytes and %q behind it, %v, %v; net/http says %d, %d are left, %v", all, c.Data, behind, done, ok, len(body), rest, err)
	}
	if done {
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(chunkedHead+string(kept))), nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := io.ReadAll(res.Body)
		maps.DeleteFunc(trailers, func(name string, _ []string) bool { return !MayTrail(name) })
		if err != nil || !bytes.Equal(again, body) || !sameHeader(res.Trailer, trailers) {
			t.Fatalf("%.300q is passed on as %.300q, which net/http reads as %q and %q, %v", all, kept, again, res.Trailer, err)
		}
		if bytes.Contains(kept[:bytes.IndexByte(kept, '\n')], []byte(";")) {
			t.Fatalf("%.300q is passed on as %.300q", all, kept)
		}
	}
	for _, size := range []int{1, 3, 7, 4096, len(all) + 1} {
		var edits, follows Chunks
		var passed []byte
		for at := 0; ; at += size {
			if at >= len(all) {
				if done || !ok || !bytes.Equal(passed, kept) {
					t.Fatalf("%.300q in pieces of %d goes on with %.300q; at once it is %.300q, %v, %v", all, size, passed, kept, done, ok)
				}
				break
			}
			piece := all[at:min(at+size, len(all))]
			n, ended, right := follows.Follow(piece)
			one, left, end, fine := edits.Next(bytes.Clone(piece))
			// With bare LFs the end is not seen before others have come: there Follow gives up.
			givesUp := end && !right && regexp.MustCompile(`[^\r]\n`).Match(all)
			if !givesUp && (ended != end || right != fine || fine && n != len(piece)-len(left)) {
				t.Fatalf("%.300q in pieces of %d, at %d: followed for %d bytes, %v, %v; passed on %v, %v with %d left", all, size, at, n, ended, right, end, fine, len(left))
			}
			if passed = append(passed, one...); end || !fine {
				if !bytes.Equal(passed, kept) || end != done || fine != ok {
					t.Fatalf("%.300q in pieces of %d is %.300q, %v, %v; at once %.300q, %v, %v", all, size, passed, end, fine, kept, done, ok)
				}
				break
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	req := crlf("GET /a%20b?c HTTP/1.1\nHost: example.com\nUser-Agent: x\nAccept: */*\nConnection: keep-alive\nX-Real-IP: y\n\n")
	res := crlf("HTTP/1.1 200 OK\nDate: now\nTransfer-Encoding: chunked\nConnection: keep-alive\n\n")
	body := crlf("2\nok\n0\n\n")
	dst := make([]byte, 0, 1<<10)
	var q Request
	var r Response
	if n := testing.AllocsPerRun(100, func() {
		if q.Parse(req, Rules{}) != Plain || r.Parse(res, false) != Plain {
			t.Fatal("not plain")
		}
		q.Cuts.AppendKept(dst, req, 0, q.Size)
		AppendDecoded(dst, q.Path.Of(req))
		var c Chunks
		if _, _, done, ok := c.Next(body); !done || !ok {
			t.Fatal("the body does not end")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	buf := crlf("GET /some/path?with=query HTTP/1.1\nHost: example.com\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\nAccept-Language: en-US,en;q=0.5\nAccept-Encoding: gzip, deflate, br\nConnection: keep-alive\nCookie: a=0123456789\n\n")
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	var r Request
	for b.Loop() {
		if r.Parse(buf, Rules{}) != Plain {
			b.Fatal("not plain")
		}
	}
}

func BenchmarkResponse(b *testing.B) {
	buf := crlf("HTTP/1.1 200 OK\nServer: nginx/1.22.1\nDate: Wed, 25 Nov 2026 16:00:00 GMT\nContent-Type: text/plain\nContent-Length: 21\nConnection: keep-alive\n\n")
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	var r Response
	for b.Loop() {
		if r.Parse(buf, false) != Plain {
			b.Fatal("not plain")
		}
	}
}

func TestValues(t *testing.T) {
	head := crlf("GET / HTTP/1.1\nHost: a\nCookie: b\nX: \ncookie:  c \nCookies: d\n\nCookie: e\n")
	for name, want := range map[string]string{"cookie": `["b" "c"]`, "x": `[""]`, "y": `[]`, "get": `[]`} {
		if got := fmt.Sprintf("%q", Values(nil, head, name)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
