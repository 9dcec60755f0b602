package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"longshore/discovery"
)

// The promise: never do the proxy and an origin, or the proxy and a client, disagree about where a
// message ends. So whatever comes in, what goes out has only one reading, and nobody gets what was
// meant to be part of something else.

// smuggled is what must never be taken for a request: it is part of a body, or comes behind something
// whose end is not certain.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

// next is a request that is one.
const next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"

// upgrading asks for another protocol.
const upgrading = "Connection: Upgrade\r\nUpgrade: websocket\r\n"

// post is a request with these fields, and what follows its head.
func post(fields, rest string) string {
	return "POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n" + rest
}

// get is one with these fields, behind which comes smuggled.
func get(fields string) string { return "GET / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n" + smuggled }

// coded has this line for a Transfer-Encoding, and no length.
func coded(line string) string { return post(line+"\r\n", "5\r\nhello\r\n0\r\n\r\n"+smuggled) }

// codedAnd has it beside a length, which it may or may not override: the body has smuggled behind what
// a chunked one would be.
func codedAnd(line string) string {
	return post(line+"\r\nContent-Length: 40\r\n", "0\r\n\r\n"+smuggled)
}

// sized has this line for a Content-Length.
func sized(line string) string { return post(line+"\r\n", "hello"+smuggled) }

// chunked has this body.
func chunked(body string) string { return post("Transfer-Encoding: chunked\r\n", body) }

// hosted is a request for this host.
func hosted(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" + smuggled }

// An attack is what a client sends, in one go and in pieces.
type attack struct {
	name  string
	input string
	want  string // the answers, and what becomes of the connection: "200 400 closed"; "cut off": the client says that this is all
	sees  string // the requests that the origin sees, with their bodies: "POST / hello, GET /next"; it may see nothing of one "broken off"
}

var attacks = []struct {
	subject string
	attacks []attack
}{
	// RFC 9112, 6.1: Transfer-Encoding overrides, or it is an error; the connection is closed in any case.
	{"framings", []attack{
		{"CL.TE", codedAnd("Transfer-Encoding: chunked"), "200 closed", "POST /"},
		{"CL.TE the other way round", post("Transfer-Encoding: chunked\r\nContent-Length: 40\r\n", "0\r\n\r\n"+smuggled), "200 closed", "POST /"},
		{"TE.CL", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n"), "200 closed", "POST / " + smuggled},
		{"TE.0", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n"), "200 closed", "POST / " + smuggled},
		{"both on a GET", get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "400 closed", "GET / broken off"},
		{"bad length and chunked", post("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled), "400 closed", ""},
		{"two lengths and chunked", post("Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled), "400 closed", ""},
		{"folded length and chunked", post("Content-Length:\r\n 40\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled), "200 closed", "POST /"},
		{"both over HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello" + smuggled, "200 closed", "POST / hello"},
		{"chunked over HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled, "200 closed", "POST /"},
		{"gzip over HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: gzip\r\n\r\n" + smuggled, "200 closed", "POST /"},
	}},
	// Only "chunked" is understood; RFC 9112, 6.1: others get 501, what is no coding 400.
	{"codings", []attack{
		{"chunked", chunked("5\r\nhello\r\n0\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"no space", post("Transfer-Encoding:chunked\r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"tab before", post("Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"spaces around", post("Transfer-Encoding:   chunked \t \r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"xchunked", coded("Transfer-Encoding: xchunked"), "501 closed", ""},
		{"chunkedx", coded("Transfer-Encoding: chunkedx"), "501 closed", ""},
		{"chunk", coded("Transfer-Encoding: chunk"), "501 closed", ""},
		{"identity", coded("Transfer-Encoding: identity"), "501 closed", ""},
		{"gzip", coded("Transfer-Encoding: gzip"), "501 closed", ""},
		{"none", coded("Transfer-Encoding:"), "501 closed", ""},
		{"chunked, identity", coded("Transfer-Encoding: chunked, identity"), "501 closed", ""},
		{"identity, chunked", coded("Transfer-Encoding: identity, chunked"), "501 closed", ""},
		{"gzip, chunked", coded("Transfer-Encoding: gzip, chunked"), "501 closed", ""},
		{"chunked, chunked", coded("Transfer-Encoding: chunked, chunked"), "501 closed", ""},
		{"chunked and a comma", coded("Transfer-Encoding: chunked,"), "501 closed", ""},
		{"comma and chunked", coded("Transfer-Encoding: , chunked"), "501 closed", ""},
		{"chunked with a parameter", coded("Transfer-Encoding: chunked;q=1"), "501 closed", ""},
		{"quoted", coded("Transfer-Encoding: \"chunked\""), "501 closed", ""},
		{"kelvin sign for a k", coded("Transfer-Encoding: chun\u212aed"), "501 closed", ""},
		{"no-break space", coded("Transfer-Encoding: \xa0chunked"), "501 closed", ""},
		{"chunked and identity", coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), "501 closed", ""},
		{"identity and chunked", coded("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"), "501 closed", ""},
		{"chunked twice", coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "501 closed", ""},
		{"chunked twice, in capitals", coded("Transfer-Encoding: chunked\r\ntransfer-encoding: CHUNKED"), "501 closed", ""},
		{"folded list", coded("Transfer-Encoding: chunked,\r\n identity"), "501 closed", ""},
		{"vertical tab before", coded("Transfer-Encoding: \vchunked"), "400 closed", ""},
		{"vertical tab behind", coded("Transfer-Encoding: chunked\v"), "400 closed", ""},
		{"NUL behind", coded("Transfer-Encoding: chunked\x00"), "400 closed", ""},
		{"CR behind", coded("Transfer-Encoding: chunked\r"), "400 closed", ""},
		{"space before the colon", coded("Transfer-Encoding : chunked"), "400 closed", ""},
		{"tab before the colon", coded("Transfer-Encoding\t: chunked"), "400 closed", ""},
		{"vertical tab before the colon", coded("Transfer-Encoding\v: chunked"), "400 closed", ""},
		{"NUL before the colon", coded("Transfer-Encoding\x00: chunked"), "400 closed", ""},
		{"NUL before the name", coded("\x00Transfer-Encoding: chunked"), "400 closed", ""},
		{"two colons", coded("Transfer-Encoding:: chunked"), "501 closed", ""},
		{"space in the name", coded("Transfer Encoding: chunked"), "400 closed", ""},
		{"underscore", codedAnd("Transfer_Encoding: chunked"), "200 open", "POST / 0\r\n\r\n" + smuggled},
		{"behind a fold", codedAnd("A: b\r\n Transfer-Encoding: chunked"), "200 open", "POST / 0\r\n\r\n" + smuggled},
		{"behind a folded nothing", codedAnd("A:\r\n \r\n Transfer-Encoding: chunked"), "200 open", "POST / 0\r\n\r\n" + smuggled},
		{"behind a bare LF", codedAnd("A: b\nTransfer-Encoding: chunked"), "200 closed", "POST /"},
		{"behind a bare CR", codedAnd("A: b\rTransfer-Encoding: chunked"), "400 closed", ""},
		{"behind CR LF CR", codedAnd("A: b\r\n\rTransfer-Encoding: chunked"), "400 closed", ""},
		{"xchunked and a length", codedAnd("Transfer-Encoding: xchunked"), "501 closed", ""},
		{"identity and a length", codedAnd("Transfer-Encoding: identity"), "501 closed", ""},
		{"content-encoding", codedAnd("Content-Encoding: chunked"), "200 open", "POST / 0\r\n\r\n" + smuggled},
		{"te", codedAnd("TE: chunked"), "200 open", "POST / 0\r\n\r\n" + smuggled},
	}},
	// RFC 9112, 6.3: what is no number is an error, and so are two of them, unless they are the same.
	{"lengths", []attack{
		{"length", post("Content-Length: 5\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"length of smuggled", post("Content-Length: 35\r\n", smuggled+next), "200 200 open", "POST / " + smuggled + ", GET /next"},
		{"zero", post("Content-Length: 0\r\n", next), "200 200 open", "POST /, GET /next"},
		{"leading zeros", post("Content-Length: 0005\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"many leading zeros", post("Content-Length: "+strings.Repeat("0", 100)+"5\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"tabs around", post("Content-Length:\t5\t\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"folded length", post("Content-Length:\r\n 5\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"the same twice", post("Content-Length: 5\r\ncontent-length: 5\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"length on GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + smuggled + next, "200 200 open", "GET / " + smuggled + ", GET /next"},
		{"length on HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + smuggled, "200 open", "HEAD / " + smuggled},
		{"length on DELETE", "DELETE / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + smuggled, "200 open", "DELETE / " + smuggled},
		{"length on OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + smuggled, "200 open", "OPTIONS * " + smuggled},
		{"body longer than its length", post("Content-Length: 5\r\n", "hello, world\r\n"+smuggled), "200 400 closed", "POST / hello"},
		{"body without a length", post("", "a=b"+smuggled), "200 400 closed", "POST /"},
		{"different", sized("Content-Length: 5\r\nContent-Length: 40"), "400 closed", ""},
		{"different, the second zero", sized("Content-Length: 5\r\nContent-Length: 0"), "400 closed", ""},
		{"same, written differently", sized("Content-Length: 5\r\nContent-Length: 05"), "400 closed", ""},
		{"same, other capitals, far away", sized("Content-Length: 40\r\nA: b\r\nCONTENT-LENGTH: 5"), "400 closed", ""},
		{"list", sized("Content-Length: 5, 5"), "400 closed", ""},
		{"list, different", sized("Content-Length: 5, 40"), "400 closed", ""},
		{"comma behind", sized("Content-Length: 5,"), "400 closed", ""},
		{"comma before", sized("Content-Length: ,5"), "400 closed", ""},
		{"plus", sized("Content-Length: +5"), "400 closed", ""},
		{"minus", sized("Content-Length: -1"), "400 closed", ""},
		{"minus zero", sized("Content-Length: -0"), "400 closed", ""},
		{"hexadecimal", sized("Content-Length: 0x5"), "400 closed", ""},
		{"octal", sized("Content-Length: 0o5"), "400 closed", ""},
		{"underscore in it", sized("Content-Length: 4_0"), "400 closed", ""},
		{"space in it", sized("Content-Length: 5 6"), "400 closed", ""},
		{"fold in it", sized("Content-Length: 5\r\n 6"), "400 closed", ""},
		{"empty", sized("Content-Length:"), "400 closed", ""},
		{"empty and another", sized("Content-Length:\r\nContent-Length: 5"), "400 closed", ""},
		{"point", sized("Content-Length: 5.0"), "400 closed", ""},
		{"exponent", sized("Content-Length: 4e1"), "400 closed", ""},
		{"semicolon", sized("Content-Length: 5;"), "400 closed", ""},
		{"letters behind", sized("Content-Length: 5abc"), "400 closed", ""},
		{"quoted", sized("Content-Length: \"5\""), "400 closed", ""},
		{"arabic digit", sized("Content-Length: \u0665"), "400 closed", ""},
		{"wide digit", sized("Content-Length: \uff15"), "400 closed", ""},
		{"no-break space", sized("Content-Length: \xa05"), "400 closed", ""},
		{"vertical tab", sized("Content-Length: 5\v"), "400 closed", ""},
		{"NUL", sized("Content-Length: 5\x00"), "400 closed", ""},
		{"CR", sized("Content-Length: 5\r"), "400 closed", ""},
		{"CR before", sized("Content-Length: \r5"), "400 closed", ""},
		{"2^63", sized("Content-Length: 9223372036854775808"), "400 closed", ""},
		{"2^64+5", sized("Content-Length: 18446744073709551621"), "400 closed", ""},
		{"2^32+5", sized("Content-Length: 4294967301"), "413 closed", ""},
		{"2^63-1", sized("Content-Length: 9223372036854775807"), "413 closed", ""},
		{"a hundred nines", sized("Content-Length: " + strings.Repeat("9", 100)), "400 closed", ""},
		{"space before the colon", sized("Content-Length : 5"), "400 closed", ""},
		{"space in the name", sized("Content Length: 5"), "400 closed", ""},
		{"underscore in the name", post("Content_Length: 40\r\n", next), "200 200 open", "POST /, GET /next"},
		{"underscore in the name, beside another", post("content_length: 40\r\nContent-Length: 5\r\n", "hello"+next), "200 200 open", "POST / hello, GET /next"},
		{"name with more to it", post("Content-Length-X: 40\r\nX-Content-Length: 5\r\n", next), "200 200 open", "POST /, GET /next"},
	}},
	// RFC 9112, 2.2: a bare LF may be taken for the end of a line in a head; a bare CR and NUL may not be taken for anything.
	{"line ends", []attack{
		{"bare LF", "POST / HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello" + next, "200 200 open", "POST / hello, GET /next"},
		{"bare LF behind the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"bare LF behind a field", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"bare LF for the empty line", "GET / HTTP/1.1\r\nHost: x\r\n\n" + next, "200 200 open", "GET /, GET /next"},
		{"bare LF and CRLF at the end", "GET / HTTP/1.1\r\nHost: x\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"bare CR behind the request line", "GET / HTTP/1.1\rHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"bare CR for all line ends", "GET / HTTP/1.1\rHost: x\r\r" + smuggled, "400 closed", ""},
		{"CR CR LF behind the request line", "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"CR CR LF behind a field", get("A: b\r\r\n"), "400 closed", ""},
		{"CR CR LF for the empty line", "GET / HTTP/1.1\r\nHost: x\r\n\r\r\n" + smuggled, "400 closed", ""},
		{"LF CR for the empty line", "GET / HTTP/1.1\r\nHost: x\n\rA: b\r\n\r\n" + smuggled, "400 closed", ""},
		{"CR in a value", get("A: b\rc\r\n"), "400 closed", ""},
		{"CR before a value", get("A: \rb\r\n"), "400 closed", ""},
		{"CR in a name", get("A\rB: c\r\n"), "400 closed", ""},
		{"CR and a whole field in a value", get("A: b\rHost: y\r\n"), "400 closed", ""},
		{"NUL in a value", get("A: b\x00c\r\n"), "400 closed", ""},
		{"NUL in a name", get("A\x00: b\r\n"), "400 closed", ""},
		{"NUL in a target", "GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"NUL for the empty line", "GET / HTTP/1.1\r\nHost: x\r\n\x00\r\n\r\n" + smuggled, "400 closed", ""},
		{"form feed for a line end", "GET / HTTP/1.1\fHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"next line for a line end", post("A: b\u0085Content-Length: 35\r\n", next), "200 200 open", "POST /, GET /next"},
		{"CR and LF in UTF-8 that is too long", post("A: b\xc0\x8d\xc0\x8aContent-Length: 35\r\n", next), "200 200 open", "POST /, GET /next"},
		{"characters that end in CR and LF", post("A: b\u560d\u560aContent-Length: 35\r\n", next), "200 200 open", "POST /, GET /next"},
	}},
	{"fields", []attack{
		{"fold", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\td\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"fold of nothing at the end", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n \r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"fold of the first line", "GET / HTTP/1.1\r\n Host: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"fold of the first line by a tab", "GET / HTTP/1.1\r\n\tA: b\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"fold of the name", get("A\r\n : b\r\n"), "400 closed", ""},
		{"space before the colon", get("A : b\r\n"), "400 closed", ""},
		{"tab before the colon", get("A\t: b\r\n"), "400 closed", ""},
		{"no colon", get("A\r\n"), "400 closed", ""},
		{"no colon at first", "GET / HTTP/1.1\r\nA\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"no name", get(": b\r\n"), "400 closed", ""},
		{"only a colon", get(":\r\n"), "400 closed", ""},
		{"space in a name", get("A B: c\r\n"), "400 closed", ""},
		{"parentheses in a name", get("A(b): c\r\n"), "400 closed", ""},
		{"quote in a name", get("A\"b\": c\r\n"), "400 closed", ""},
		{"slash in a name", get("A/b: c\r\n"), "400 closed", ""},
		{"comma in a name", get("A,b: c\r\n"), "400 closed", ""},
		{"DEL in a name", get("A\x7f: b\r\n"), "400 closed", ""},
		{"letter beyond ASCII in a name", get("\xc3\xa4: b\r\n"), "400 closed", ""},
		{"byte beyond ASCII in a name", get("A\xff: b\r\n"), "400 closed", ""},
		{"DEL in a value", get("A: b\x7f\r\n"), "400 closed", ""},
		{"control byte in a value", get("A: b\x01\r\n"), "400 closed", ""},
		{"escape in a value", get("A: \x1b[2J\r\n"), "400 closed", ""},
		{"all odd bytes that a name may have", "GET / HTTP/1.1\r\nHost: x\r\n!#$%&'*+-.^`|~09: b\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"a request line for a field", "GET / HTTP/1.1\r\nHost: x\r\n" + smuggled, "400 closed", ""},
		{"a request line for a field, by its port", "GET / HTTP/1.1\r\nHost: x\r\nGET http://x:80/smuggled HTTP/1.1\r\n\r\n" + smuggled, "400 closed", ""},
	}},
	// RFC 9112, 7.1. Whatever is wrong with a body, the origin must see that it is not whole.
	{"chunks", []attack{
		{"smuggled in a chunk", chunked("28\r\n0\r\n\r\n" + smuggled + "\r\n0\r\n\r\n" + next), "200 200 open", "POST / 0\r\n\r\n" + smuggled + ", GET /next"},
		{"two chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"capital digit", chunked("A\r\nhellohello\r\n0\r\n\r\n" + next), "200 200 open", "POST / hellohello, GET /next"},
		{"leading zeros of a size", chunked("0005\r\nhello\r\n000\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"extension", chunked("5;a=b\r\nhello\r\n0;c\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"extension in quotes", chunked("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"empty extension", chunked("5;\r\nhello\r\n0\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"space behind a size", chunked("5 \r\nhello\r\n0\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"tab and extension behind a size", chunked("5\t;a\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension with a bare LF", chunked("5;a\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension with a bare LF, quoted", chunked("5;a=\"\n\"\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension with a bare CR", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension of the last chunk with a bare LF", chunked("5\r\nhello\r\n0;\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension that is too long", chunked("5;" + strings.Repeat("a", 5000) + "\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extensions that are too many", chunked(strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"minus", chunked("-5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"minus zero", chunked("-0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"plus", chunked("+5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"0x", chunked("0x5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"underscore", chunked("0_5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"point", chunked("5.0\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"comma", chunked("5,5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"no digit", chunked("g\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"wide digit", chunked("\uff15\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"NUL behind a size", chunked("5\x00\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"letters behind a size", chunked("5xyz\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"space before a size", chunked(" 5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"space in a size", chunked("0 5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"no size", chunked("\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"empty line before a size", chunked("\r\n5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"extension without a size", chunked(";a\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"2^64+5", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"2^64", chunked("10000000000000000\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"2^64-1", chunked("ffffffffffffffff\r\n" + strings.Repeat(smuggled, 3000)), "413 closed", "POST / broken off"},
		{"2^32+5", chunked("100000005\r\n" + strings.Repeat(smuggled, 3000)), "413 closed", "POST / broken off"},
		{"many zeros", chunked(strings.Repeat("0", 100) + "5\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"nothing behind the data", chunked("5\r\nhello0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"bare LF behind the data", chunked("5\r\nhello\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"bare CR behind the data", chunked("5\r\nhello\r0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"other bytes behind the data", chunked("5\r\nhelloXX0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"data longer than its size", chunked("5\r\nhello, world\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"data shorter than its size", chunked("6\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"bare LF behind a size", chunked("5\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"bare LF behind the last size", chunked("5\r\nhello\r\n0\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"bare CR behind a size", chunked("5\rhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"CR CR LF behind a size", chunked("5\r\r\nhello\r\n0\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		// Here net/http takes a bare LF for a line end, as it may (RFC 9112, 2.2), once it has a CRLF behind it as well: the next request has been read by then.
		{"bare LF for the empty line", chunked("5\r\nhello\r\n0\r\n\n" + next), "200 200 closed", "POST / hello, GET /next"},
		{"no empty line", chunked("5\r\nhello\r\n0\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer", chunked("5\r\nhello\r\n0\r\nA: b\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"trailer Content-Length", chunked("5\r\nhello\r\n0\r\nContent-Length: 35\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"line of data like Content-Length", chunked("12\r\n\nContent-Length: 5\r\n0\r\n\r\n" + next), "200 200 open", "POST / \nContent-Length: 5, GET /next"},
		{"trailer Transfer-Encoding", chunked("5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"trailer Host", chunked("5\r\nhello\r\n0\r\nHost: y\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"trailer Connection", chunked("5\r\nhello\r\n0\r\nConnection: close\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"announced trailer Content-Length", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "5\r\nhello\r\n0\r\nContent-Length: 35\r\n\r\n"+smuggled), "400 closed", ""},
		{"announced trailer Transfer-Encoding", post("Transfer-Encoding: chunked\r\nTrailer: Transfer-Encoding\r\n", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"+smuggled), "400 closed", ""},
		{"announced trailer Host", post("Transfer-Encoding: chunked\r\nTrailer: Host\r\n", "5\r\nhello\r\n0\r\nHost: y\r\n\r\n"+next), "200 200 open", "POST / hello, GET /next"},
		{"trailer Content_Length", chunked("5\r\nhello\r\n0\r\nContent_Length: 35\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"trailer that is announced oddly", post("Transfer-Encoding: chunked\r\nTrailer: a b, \x80\r\n", "0\r\n\r\n"+next), "200 200 open", "POST /, GET /next"},
		{"trailer without a colon", chunked("5\r\nhello\r\n0\r\nA\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer without a name", chunked("5\r\nhello\r\n0\r\n: b\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer with a space in its name", chunked("5\r\nhello\r\n0\r\nA B: c\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer with a space before the colon", chunked("5\r\nhello\r\n0\r\nA : b\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer with a bare CR", chunked("5\r\nhello\r\n0\r\nA: b\rc\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer with NUL", chunked("5\r\nhello\r\n0\r\nA: b\x00\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"trailer with a bare LF", chunked("5\r\nhello\r\n0\r\nA: b\nC: d\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"trailers that end in a bare LF", chunked("5\r\nhello\r\n0\r\nA: b\r\n\n" + next), "200 200 closed", "POST / hello, GET /next"},
		{"folded trailer", chunked("5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n" + next), "200 200 open", "POST / hello, GET /next"},
		{"folded trailer at first", chunked("5\r\nhello\r\n0\r\n A: b\r\n\r\n" + smuggled), "400 closed", "POST / broken off"},
		{"more behind the last chunk", chunked("0\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + smuggled), "200 400 closed", "POST /"},
	}},
	// RFC 9112, 3.2.
	{"hosts", []attack{
		{"no host", "GET / HTTP/1.1\r\n\r\n" + smuggled, "400 closed", ""},
		{"two hosts", get("Host: y\r\n"), "400 closed", ""},
		{"the same host twice", get("Host: x\r\n"), "400 closed", ""},
		{"two hosts, one with a space", get("Host : y\r\n"), "400 closed", ""},
		{"folded host", "GET / HTTP/1.1\r\nHost:\r\n x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"another host in a fold", post("A: b\r\n Host: y\r\n", next), "200 200 open", "POST /, GET /next"},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n" + next, "200 200 open", "GET / of [\"\"], GET /next"},
		{"host with a comma", "GET / HTTP/1.1\r\nHost: x,y\r\n\r\n" + next, "200 200 open", "GET / of [\"x,y\"], GET /next"},
		{"host in HTTP/1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + next, "200 200 open", "GET / of [\"\"], GET /next"},
		{"space", hosted("a b"), "400 closed", ""},
		{"slash", hosted("a/b"), "400 closed", ""},
		{"backslash", hosted("a\\b"), "400 closed", ""},
		{"at", hosted("a@b"), "400 closed", ""},
		{"question mark", hosted("a?b"), "400 closed", ""},
		{"number sign", hosted("a#b"), "400 closed", ""},
		{"tab", hosted("a\tb"), "400 closed", ""},
		{"NUL", hosted("a\x00b"), "400 closed", ""},
		{"CR", hosted("a\rb"), "400 closed", ""},
		{"DEL", hosted("\x7f"), "400 closed", ""},
		{"byte beyond ASCII", hosted("\xe4"), "400 closed", ""},
		{"angle brackets", hosted("<a>"), "400 closed", ""},
		{"quotes", hosted("\"a\""), "400 closed", ""},
		{"caret", hosted("a^b"), "400 closed", ""},
		{"bar", hosted("a|b"), "400 closed", ""},
		{"braces", hosted("{a}"), "400 closed", ""},
		{"%00", "GET / HTTP/1.1\r\nHost: a%00b\r\n\r\n" + next, "200 200 open", "GET / of [\"a%00b\"], GET /next"},
		{"%0d%0a", "GET / HTTP/1.1\r\nHost: a%0d%0ab\r\n\r\n" + next, "200 200 open", "GET / of [\"a%0d%0ab\"], GET /next"},
		{"port of letters", hosted("a:b"), "400 closed", ""},
		{"two ports", hosted("a:80:80"), "400 closed", ""},
		{"port beyond 65535", hosted("a:99999"), "400 closed", ""},
		{"half a bracket", hosted("[::1"), "400 closed", ""},
		{"the other half", hosted("::1]"), "400 closed", ""},
		{"brackets and more", hosted("[a]b"), "400 closed", ""},
		{"brackets and a name", hosted("[a]"), "400 closed", ""},
		{"address without brackets", hosted("::1"), "400 closed", ""},
		{"port with a sign", hosted("a:+80"), "400 closed", ""},
		{"port", "GET / HTTP/1.1\r\nHost: a:80\r\n\r\n" + next, "200 200 open", "GET / of [\"a:80\"], GET /next"},
		{"no port behind the colon", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n" + next, "200 200 open", "GET / of [\"a:\"], GET /next"},
		{"address and port", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n" + next, "200 200 open", "GET / of [\"[::1]:80\"], GET /next"},
		{"host of the target", "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET / of [\"y\"], GET /next"},
		{"host of the target only", "GET http://y/ HTTP/1.1\r\n\r\n" + smuggled, "400 closed", ""},
		{"host of the target, two others", "GET http://y/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + smuggled, "400 closed", ""},
		{"host of the target, a bad other one", "GET http://y/ HTTP/1.1\r\nHost: a b\r\n\r\n" + smuggled, "400 closed", ""},
		{"host of the target with a user", "GET http://x@y/ HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET / of [\"y\"], GET /next"},
		{"host of the target empty", "GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n" + next, "400 200 open", "GET /next"},
		{"host of the target with a space", "GET http://a b/ HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"host of the target with %0d%0a", "GET http://y%0d%0aA:b/ HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"host of the target with a port that is none", "GET http://y:b/ HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
	}},
	// RFC 9112, 3.2; TestRequestTarget and TestBadTarget have more.
	{"targets", []attack{
		{"space", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"version in the target", "GET / HTTP/1.1 /a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"tab", "GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"CR", "GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"CR behind", "GET /\r HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"LF", "GET /a\nb HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"vertical tab", "GET /a\vb HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"DEL", "GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"no slash", "GET a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"question mark", "GET ?a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"none", "GET  HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"fragment only", "GET #a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"asterisk with POST", "POST * HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + smuggled, "400 closed", ""},
		{"asterisk with OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "OPTIONS *, GET /next"},
		{"asterisk and more", "OPTIONS *a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"authority with GET", "GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + next, "400 200 open", "GET /next"},
		{"half an escape", "GET /%0 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n" + next, "400 200 open", "GET /next"},
		{"two slashes", "GET //y/a HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET //y/a, GET /next"},
		{"backslash", "GET /\\y HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /\\y, GET /next"},
		{"escaped line ends", "GET /%20HTTP/1.1%0d%0aA:%20b HTTP/1.1\r\nHost: x\r\n\r\n" + next, "400 200 open", "GET /next"},
		{"escaped NUL", "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n" + next, "400 200 open", "GET /next"},
		{"no-break space", "GET /\xa0HTTP/1.0 HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /\xa0HTTP/1.0, GET /next"},
		{"other scheme", "GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /a, GET /next"},
		{"CONNECT", "CONNECT y:80 HTTP/1.1\r\nHost: y:80\r\n\r\n" + smuggled, "405 closed", ""},
		{"CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "405 closed", ""},
		{"CONNECT with a length", "CONNECT y:80 HTTP/1.1\r\nHost: y:80\r\nContent-Length: 35\r\n\r\n" + smuggled, "405 closed", ""},
		{"CONNECT without a host", "CONNECT y:80 HTTP/1.1\r\n\r\n" + smuggled, "405 closed", ""},
	}},
	{"request lines", []attack{
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"HTTP/1.9", "GET / HTTP/1.9\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n" + smuggled, "505 closed", ""},
		{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: x\r\n\r\n" + smuggled, "505 closed", ""},
		{"HTTP/0.9", "GET / HTTP/0.9\r\nHost: x\r\n\r\n" + smuggled, "505 closed", ""},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, "505 closed", ""},
		{"HTTP/2 preface with fields", "PRI * HTTP/2.0\r\nHost: x\r\n\r\n" + smuggled, "505 closed", ""},
		{"http/1.1", "GET / http/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/1.1x", "GET / HTTP/1.1x\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/1.10", "GET / HTTP/1.10\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/01.1", "GET / HTTP/01.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/1", "GET / HTTP/1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/1,1", "GET / HTTP/1,1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/+1.1", "GET / HTTP/+1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP/-1.1", "GET / HTTP/-1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTPS/1.1", "GET / HTTPS/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"HTTP /1.1", "GET / HTTP /1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"no version", "GET /\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"no version and a space", "GET / \r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"only a word", "GET\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"two spaces before the version", "GET /  HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"space behind the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"space before the method", " GET / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"tabs for spaces", "GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"vertical tab for a space", "GET /\vHTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"no method", "/ HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"empty method", " / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"method in lower case", "get / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "get /, GET /next"},
		{"head in lower case", "head / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "head /, GET /next"},
		{"connect in lower case", "connect / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "connect /, GET /next"},
		{"odd method", "!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "!#$%&'*+-.^_`|~ /, GET /next"},
		{"long method", strings.Repeat("A", 3000) + " / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", strings.Repeat("A", 3000) + " /, GET /next"},
		{"parentheses in a method", "G(T) / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"colon in a method", "GET: / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"slash in a method", "GE/T / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"quotes in a method", "\"GET\" / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"NUL in a method", "GET\x00 / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"CR in a method", "GE\rT / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"byte beyond ASCII in a method", "G\xcb\x89T / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"byte order mark", "\xef\xbb\xbfGET / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"NUL at first", "\x00GET / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
		{"a response", "HTTP/1.1 200 OK\r\nContent-Length: 35\r\n\r\n" + smuggled, "400 closed", ""},
		{"TLS", "\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03\r\n\r\n" + smuggled, "400 closed", ""},
		{"PROXY protocol", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + smuggled, "400 closed", ""},
		{"empty lines first", "\r\n\r\n" + "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"many empty lines first", strings.Repeat("\r\n", 1000) + "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"empty lines that end in a bare LF", "\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"space in an empty line", " \r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, "400 closed", ""},
	}},
	{"connections", []attack{
		{"two requests", "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"ten requests", strings.Repeat(next, 10), strings.Repeat("200 ", 10) + "open", strings.Repeat("GET /next, ", 9) + "GET /next"},
		{"request behind close", get("Connection: close\r\n"), "200 closed", "GET /"},
		{"request behind close in a list", get("Connection: a, Close ,b\r\n"), "200 closed", "GET /"},
		{"request behind close and keep-alive", get("Connection: keep-alive\r\nConnection: close\r\n"), "200 closed", "GET /"},
		{"request behind HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n" + smuggled, "200 closed", "GET /"},
		{"request behind HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"proxy-connection", "GET / HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"length is hop-by-hop", post("Connection: Content-Length\r\nContent-Length: 35\r\n", smuggled), "200 open", "POST / " + smuggled},
		{"length is hop-by-hop on GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, content-length\r\nContent-Length: 35\r\n\r\n" + smuggled, "200 closed", "GET / " + smuggled},
		{"length of nothing is hop-by-hop", post("Connection: Content-Length\r\nContent-Length: 0\r\n", next), "200 200 open", "POST /, GET /next"},
		{"coding is hop-by-hop", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n"), "200 open", "POST / " + smuggled},
		{"host is hop-by-hop", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Host\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"connection is hop-by-hop", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Connection, a\r\nA: b\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"trailer is hop-by-hop", post("Connection: Trailer\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nA: b\r\n\r\n"+next), "200 200 open", "POST / hello, GET /next"},
		{"odd hop-by-hop names", "GET / HTTP/1.1\r\nHost: x\r\nConnection: ,, \"a\", b c;d, \xff\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"hop-by-hop fields", "GET / HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\nTrailer: A\r\nProxy: y\r\nProxy-Authorization: z\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade that is not granted", "GET / HTTP/1.1\r\nHost: x\r\n" + upgrading + "\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade with a body", post(upgrading+"Content-Length: 35\r\n", smuggled+next), "200 200 open", "POST / " + smuggled + ", GET /next"},
		{"upgrade with a chunked body", post(upgrading+"Transfer-Encoding: chunked\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n"+next), "200 200 open", "POST / " + smuggled + ", GET /next"},
		{"upgrade with a broken body", post(upgrading+"Transfer-Encoding: chunked\r\n", "xx\r\n"+smuggled), "400 closed", "POST / broken off"},
		{"upgrade with garbage behind", "GET / HTTP/1.1\r\nHost: x\r\n" + upgrading + "\r\n\x81\x05hello\r\n\r\n" + smuggled, "200 400 closed", "GET /"},
		{"upgrade to h2c", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade to h2c, settings kept", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade to h2c or another", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade to h2c with a body", post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 35\r\n", smuggled+next), "200 200 open", "POST / " + smuggled + ", GET /next"},
		{"settings of h2c without an upgrade", "GET / HTTP/1.1\r\nHost: x\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"upgrade without connection", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"connection without upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"two upgrades", "GET / HTTP/1.1\r\nHost: x\r\n" + upgrading + "Upgrade: h2c\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"expect", post("Expect: 100-continue\r\nContent-Length: 35\r\n", smuggled+next), "100 200 200 open", "POST / " + smuggled + ", GET /next"},
		{"expect, chunked", post("Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n"+next), "100 200 200 open", "POST / " + smuggled + ", GET /next"},
		{"expect, broken", post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "xx\r\n"+smuggled), "100 400 closed", "POST / broken off"},
		{"expect without a body", "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n" + next, "200 200 open", "GET /, GET /next"},
		{"expect over HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\n" + smuggled, "200 closed", "POST / " + smuggled},
		{"expect something else", post("Expect: x\r\nContent-Length: 35\r\n", smuggled), "417 closed", ""},
		{"expect in a list", post("Expect: 100-continue, x\r\nContent-Length: 35\r\n", smuggled), "100 200 open", "POST / " + smuggled},
		{"expect with a word before", post("Expect: y 100-continue\r\nContent-Length: 35\r\n", smuggled), "100 200 open", "POST / " + smuggled},
		{"expect twice", post("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 35\r\n", smuggled), "100 200 open", "POST / " + smuggled},
		{"expect nothing", post("Expect:\r\nContent-Length: 35\r\n", smuggled), "200 open", "POST / " + smuggled},
		{"large body", post("Content-Length: 70000\r\n", strings.Repeat(smuggled, 2000)), "413 closed", ""},
		{"large head", get("A: " + strings.Repeat("b", 20<<10) + "\r\n"), "431 closed", ""},
		{"many fields", get(strings.Repeat("A: b\r\n", 5<<10)), "431 closed", ""},
		{"head without an end", "GET / HTTP/1.1\r\nHost: x\r\nA: b", "400 closed or closed, cut off", ""},
		{"no empty line", "GET / HTTP/1.1\r\nHost: x\r\n", "400 closed or closed, cut off", ""},
		{"body that ends early", post("Content-Length: 35\r\n", "hello"), "499 closed or closed, cut off", "POST / broken off"},
		{"no body", post("Content-Length: 35\r\n", ""), "499 closed or closed, cut off", "POST / broken off"},
		{"chunk that ends early", chunked("23\r\nhello"), "499 closed or closed, cut off", "POST / broken off"},
		{"no last chunk", chunked("5\r\nhello\r\n"), "499 closed or closed, cut off", "POST / broken off"},
		{"last chunk without its end", chunked("5\r\nhello\r\n0\r\n"), "499 closed or closed, cut off", "POST / broken off"},
		{"last chunk with half its end", chunked("5\r\nhello\r\n0\r\n\r"), "499 closed or closed, cut off", "POST / broken off"},
	}},
}

// Ways to send the same bytes.
var ways = []struct {
	name   string
	pieces func(string) []string
}{
	{"whole", func(s string) []string { return []string{s} }},
	{"in two", func(s string) []string {
		at := strings.Index(s, "\r\n\r\n") + 4
		if at < 4 || at == len(s) {
			at = len(s) / 2
		}
		return []string{s[:at], s[at:]}
	}},
	{"bytes", func(s string) (pieces []string) {
		for p := range slices.Chunk([]byte(s), 1+len(s)/300) {
			pieces = append(pieces, string(p))
		}
		return pieces
	}},
}

// feed sends pieces, as long as the other side wants them.
func feed(w *wire, pieces []string) {
	for i, p := range pieces {
		if i > 0 && len(pieces) == 2 {
			time.Sleep(time.Millisecond) // so that most are reads of their own; nothing depends on it
		}
		if _, err := io.WriteString(w.Conn, p); err != nil {
			return
		}
	}
}

// An origin is a backend that trusts nobody.
type origin struct {
	*backend
	mu    sync.Mutex // guards the following
	saw   []string   // the requests, in the order in which they ended
	wrong []error    // what no proxy may send
}

// startOrigin starts one that answers each request in full with reply.
func startOrigin(t testing.TB, reply func(*wire, *message)) *origin {
	o := new(origin)
	o.backend = rawBackend(t, "origin", func(w *wire) {
		for {
			m, err := readStrict(w.r, "")
			if err == io.EOF {
				return
			}
			o.note(m, err)
			if err != nil {
				return
			}
			reply(w, m)
		}
	})
	return o
}

// echo answers with what was understood.
func echo(w *wire, m *message) {
	w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSaw: " + strconv.Quote(m.String()) + "\r\n\r\n")
}

func (o *origin) note(m *message, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch err {
	case nil:
		o.saw = append(o.saw, m.String())
	case errCut: // how much of it came is chance
		m.body = ""
		o.saw = append(o.saw, m.String()+" broken off")
	default:
		o.wrong = append(o.wrong, fmt.Errorf("the origin got %s: %w", m, err))
	}
	if strings.Contains(m.target, "smuggled") {
		o.wrong = append(o.wrong, fmt.Errorf("%s was smuggled", m))
	}
}

// end waits until the origin has seen the end of all, and says what was wrong. A request that was broken off
// must have ended without us.
func (o *origin) end(t testing.TB, p *testProxy, sees string, asExpected bool) error {
	t.Helper()
	b := p.backend(o.backend)
	if !asExpected || !strings.HasSuffix(sees, "broken off") {
		p.Router.Apply(discovery.State{}) // closes what is idle
	}
	barrier := dial(t, o.addr()) // once it is accepted, so are those before it
	barrier.Conn.(*net.TCPConn).CloseWrite()
	barrier.rest()
	until(t, "the connections to the origin have ended", func() bool { return o.open.Load() == 0 })
	until(t, "nothing is in flight", func() bool { return b.InFlight() == 0 })
	o.mu.Lock()
	defer o.mu.Unlock()
	saw := strings.Join(o.saw, ", ")
	if saw == "" && strings.HasSuffix(sees, "broken off") {
		return errors.Join(o.wrong...)
	}
	return errors.Join(append(o.wrong, want("the origin saw", saw, sees))...)
}

// either compares with what is expected, "this or that".
func either(what, got, expected string) error {
	if !slices.Contains(strings.Split(expected, " or "), got) {
		return want(what, got, expected)
	}
	return nil
}

// before starts a proxy in front of an origin.
func before(t testing.TB, in lane, o *backend) *testProxy {
	t.Helper()
	s := web(o)
	s.Settings.MaxBody = 1 << 16
	s.Settings.ConnectTimeout = patience // there are many at once
	p := newProxy(t, in)
	p.MaxHeader = 8 << 10
	p.serve(s)
	return p
}

// play sends one attack, and says what went wrong.
func (a attack) play(t *testing.T, in lane, pieces []string) error {
	o := startOrigin(t, echo)
	p := before(t, in, o.backend)
	w := p.dial()
	feed(w, pieces)
	expected, cutOff := strings.CutSuffix(a.want, ", cut off")
	if cutOff {
		w.Conn.(*net.TCPConn).CloseWrite()
	}
	first, _, _ := strings.Cut(expected, " or ")
	method := "GET"
	if strings.HasPrefix(a.input, "HEAD ") {
		method = "HEAD"
	}
	sees := a.sees
	var got, told []string
	for n := strings.Count(first, " "); len(got) <= n; {
		if len(got) == n && strings.HasSuffix(first, "open") {
			w.send("GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
			sees = strings.TrimPrefix(sees+", GET /open", ", ")
		}
		m, err := readStrict(w.r, method)
		if err == io.EOF {
			got = append(got, "closed")
			break
		}
		if err != nil {
			return fmt.Errorf("the client got %s, then %w", got, err)
		}
		said := strings.Join(m.header["saw"], "")
		if said != "" {
			told = append(told, said)
		}
		if said == `"GET /open"` {
			got = append(got, "open")
			break
		}
		got = append(got, m.status)
		if m.status >= "200" {
			method = "GET"
		}
	}
	w.Close()
	err := either("the client got", strings.Join(got, " "), expected)
	err = errors.Join(err, o.end(t, p, sees, err == nil))
	for i, s := range o.saw {
		if i < len(told) && told[i] != strconv.Quote(s) {
			err = errors.Join(err, fmt.Errorf("the client was told %s for %q", told[i], s))
		}
	}
	return err
}

// TestSmuggledRequests sends each attack in each way to a proxy of its own.
func TestSmuggledRequests(t *testing.T) { run(t, testSmuggledRequests) }

func testSmuggledRequests(t *testing.T, in lane) {
	atOnce(t, func(start func(string, func(*testing.T))) {
		for _, subject := range attacks {
			for _, a := range subject.attacks {
				for _, way := range ways {
					name := subject.subject + "/" + a.name
					start(name+"/"+way.name, func(t *testing.T) {
						if err := a.play(t, in, way.pieces(a.input)); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
	})
}

// TestSmuggledBehindAnswer sends the attacks that end badly to an origin that answers before it reads.
func TestSmuggledBehindAnswer(t *testing.T) { run(t, testSmuggledBehindAnswer) }

func testSmuggledBehindAnswer(t *testing.T, in lane) {
	atOnce(t, func(start func(string, func(*testing.T))) {
		for _, subject := range attacks {
			for _, a := range subject.attacks {
				name := subject.subject + "/" + a.name
				if !strings.HasSuffix(a.want, "closed") || strings.HasPrefix(a.want, "200 200") || a.sees == "" {
					continue
				}
				for _, way := range ways[:2] {
					start(name+"/"+way.name, func(t *testing.T) {
						o := new(origin)
						o.backend = rawBackend(t, "origin", func(w *wire) {
							if _, err := w.r.Peek(1); err != nil {
								return
							}
							w.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
							m, err := readStrict(w.r, "")
							o.note(m, err)
							w.rest()
						})
						p := before(t, in, o.backend)
						w := p.dial()
						feed(w, way.pieces(a.input))
						if n := strings.Count("\n"+w.rest(), "\nHTTP/1."); n > strings.Count(a.want, " ") {
							t.Errorf("the client got %d answers, want %s", n, a.want)
						}
						p.Router.Apply(discovery.State{})
						until(t, "the connections to the origin have ended", func() bool { return o.open.Load() == 0 })
						o.mu.Lock()
						defer o.mu.Unlock()
						if len(o.wrong) > 0 {
							t.Error(errors.Join(o.wrong...))
						}
					})
				}
			}
		}
	})
}

// atOnce runs subtests, many at a time: most of them wait most of the time.
func atOnce(t *testing.T, all func(start func(name string, test func(*testing.T)))) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan bool, 64)
	all(func(name string, test func(*testing.T)) {
		slots <- true
		wg.Go(func() {
			defer func() { <-slots }()
			t.Run(name, test)
		})
	})
}

// hangsUp ends a response behind which the backend closes the connection.
const hangsUp = "(and hangs up)"

// poison is a response that nobody has asked for.
const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

// respond is a response with these fields, and what follows its head.
func respond(fields, rest string) string { return "HTTP/1.1 200 OK\r\n" + fields + "\r\n" + rest }

// of5 is the length of "first".
const of5 = "Content-Length: 5\r\n"

// chunky has this body.
func chunky(body string) string { return respond("Transfer-Encoding: chunked\r\n", body) }

// An odd response of a backend is followed by a good one, to another request.
type odd struct {
	name     string
	request  string // or only its method
	response string
	want     string // what the client gets, and whether its connection and that to the backend go on: "200 first; open, reused"
}

var oddResponses = []struct {
	subject string
	odds    []odd
}{
	// RFC 9112, 6.3: what has no good length is a 502, and its connection is closed.
	{"lengths", []odd{
		{"length", "GET", respond("Content-Length: 5\r\n", "first"), "200 first; open, reused"},
		{"leading zeros", "GET", respond("Content-Length: 005\r\n", "first"), "200 first; open, reused"},
		{"the same twice", "GET", respond("Content-Length: 5\r\ncontent-length: 5\r\n", "first"), "200 first; open, reused"},
		{"folded", "GET", respond("Content-Length:\r\n 5\r\n", "first"), "200 first; open, reused"},
		{"different", "GET", respond("Content-Length: 5\r\nContent-Length: 6\r\n", "first"), "502; open, dropped"},
		{"list", "GET", respond("Content-Length: 5, 5\r\n", "first"), "502; open, dropped"},
		{"list, different", "GET", respond("Content-Length: 5, 6\r\n", "first"), "502; open, dropped"},
		{"plus", "GET", respond("Content-Length: +5\r\n", "first"), "502; open, dropped"},
		{"minus", "GET", respond("Content-Length: -5\r\n", "first"), "502; open, dropped"},
		{"hexadecimal", "GET", respond("Content-Length: 0x5\r\n", "first"), "502; open, dropped"},
		{"letters", "GET", respond("Content-Length: five\r\n", "first"), "502; open, dropped"},
		{"letters behind", "GET", respond("Content-Length: 5a\r\n", "first"), "502; open, dropped"},
		{"space in it", "GET", respond("Content-Length: 5 6\r\n", "first"), "502; open, dropped"},
		{"empty", "GET", respond("Content-Length:\r\n", "first"), "502; open, dropped"},
		{"2^64+5", "GET", respond("Content-Length: 18446744073709551621\r\n", "first"), "502; open, dropped"},
		{"space before the colon", "GET", respond("Content-Length : 5\r\n", "first"+hangsUp), "502; open, dropped"},
		{"and chunked", "GET", respond("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "200 first; open, dropped"},
		{"bad and chunked", "GET", respond("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"different and chunked", "GET", respond("Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"hop-by-hop", "GET", respond("Connection: content-length\r\nContent-Length: 5\r\n", "first"), "200 first; open, reused"},
		{"of 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204; open, reused"},
		{"of 204, more than nothing", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "204; open, reused"},
		{"of 204, bad", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n", "502; open, dropped"},
		{"of 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304; open, reused"},
		{"of HEAD", "HEAD", respond("Content-Length: 5\r\n", ""), "200; open, reused"},
		{"of HEAD, different", "HEAD", respond("Content-Length: 5\r\nContent-Length: 6\r\n", ""), "502; open, dropped"},
	}},
	// RFC 9112, 7.1. A body that is not whole must not look whole to the client.
	{"chunks", []odd{
		{"chunked", "GET", chunky("5\r\nfirst\r\n0\r\n\r\n"), "200 first; open, reused"},
		{"extension", "GET", chunky("5;a=b\r\nfirst\r\n0;c\r\n\r\n"), "200 first; open, reused"},
		{"capitals", "GET", respond("transfer-encoding: CHUNKED\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "200 first; open, reused"},
		{"hop-by-hop", "GET", respond("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "200 first; open, reused"},
		{"gzip", "GET", respond("Transfer-Encoding: gzip\r\n", "first"+hangsUp), "502; open, dropped"},
		{"identity", "GET", respond("Transfer-Encoding: identity\r\n", "first"+hangsUp), "502; open, dropped"},
		{"gzip, chunked", "GET", respond("Transfer-Encoding: gzip, chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"chunked twice", "GET", respond("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"xchunked", "GET", respond("Transfer-Encoding: xchunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"vertical tab before", "GET", respond("Transfer-Encoding: \vchunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"), "502; open, dropped"},
		{"space before the colon", "GET", respond("Transfer-Encoding : chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"+hangsUp), "502; open, dropped"},
		{"over HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, dropped"},
		{"of 204", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "204; open, reused"},
		{"of 304", "GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "304; open, reused"},
		{"of HEAD", "HEAD", chunky(""), "200; open, reused"},
		{"no size", "GET", chunky("\r\nfirst\r\n0\r\n\r\n"), "200 broken off; closed, dropped"},
		{"no digit", "GET", chunky("5\r\nfirst\r\nx\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"minus", "GET", chunky("5\r\nfirst\r\n-1\r\nx\r\n0\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"0x", "GET", chunky("5\r\nfirst\r\n0x1\r\nx\r\n0\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"2^64+5", "GET", chunky("10000000000000005\r\nfirst\r\n0\r\n\r\n"), "200 broken off; closed, dropped"},
		{"bare LF behind a size", "GET", chunky("5\nfirst\r\n0\r\n\r\n"), "200 broken off; closed, dropped"},
		{"extension with a bare LF", "GET", chunky("5;a\nfirst\r\n0\r\n\r\n"), "200 broken off; closed, dropped"},
		{"nothing behind the data", "GET", chunky("5\r\nfirst0\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"data longer than its size", "GET", chunky("5\r\nfirstly\r\n0\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"no last chunk", "GET", chunky("5\r\nfirst\r\n" + hangsUp), "200 first broken off; closed, dropped"},
		{"last chunk without its end", "GET", chunky("5\r\nfirst\r\n0\r\n" + hangsUp), "200 first broken off; closed, dropped"},
		{"half a chunk", "GET", chunky("5\r\nfir" + hangsUp), "200 fir broken off; closed, dropped"},
		{"half a size", "GET", chunky("5" + hangsUp), "200 broken off; closed, dropped"},
		{"trailer", "GET", chunky("5\r\nfirst\r\n0\r\nA: b\r\n\r\n"), "200 first; open, reused"},
		{"trailer Content-Length", "GET", chunky("5\r\nfirst\r\n0\r\nContent-Length: 3\r\n\r\n"), "200 first; open, reused"},
		{"trailer Transfer-Encoding", "GET", chunky("5\r\nfirst\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"), "200 first; open, reused"},
		{"trailer Connection", "GET", chunky("5\r\nfirst\r\n0\r\nConnection: close\r\n\r\n"), "200 first; open, reused"},
		{"announced trailer Content-Length", "GET", respond("Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\nContent-Length: 3\r\n\r\n"), "502; open, dropped"},
		{"trailer without a colon", "GET", chunky("5\r\nfirst\r\n0\r\nA\r\n\r\n"), "200 first broken off; closed, dropped"},
		{"trailer with a space in its name", "GET", chunky("5\r\nfirst\r\n0\r\nA B: c\r\n\r\n"), "200 first; open, reused or 200 first broken off; closed, dropped"},
		{"trailer with a bare CR", "GET", chunky("5\r\nfirst\r\n0\r\nA: b\rc\r\n\r\n"), "200 first broken off; closed, dropped"},
	}},
	{"heads", []odd{
		{"bare LF", "GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nfirst", "200 first; open, reused"},
		{"bare CR behind the status line", "GET", "HTTP/1.1 200 OK\rContent-Length: 5\r\n\r\nfirst" + hangsUp, "200 first; open, dropped"},
		{"bare CR in a value", "GET", respond("A: b\rc\r\n"+of5, "first"), "502; open, dropped"},
		{"NUL in a value", "GET", respond("A: b\x00c\r\n"+of5, "first"), "502; open, dropped"},
		{"control byte in a value", "GET", respond("A: b\x01c\r\n"+of5, "first"), "502; open, dropped"},
		{"bytes beyond ASCII in a value", "GET", respond("A: \xe4\u560d\u560ab\r\n"+of5, "first"), "200 first; open, reused"},
		{"NUL in a name", "GET", respond("A\x00: b\r\n"+of5, "first"), "502; open, dropped"},
		{"space in a name", "GET", respond("A B: c\r\n"+of5, "first"), "200 first; open, reused"},
		{"space before the colon", "GET", respond("A : b\r\n"+of5, "first"), "200 first; open, reused"},
		{"parentheses in a name", "GET", respond("A(b): c\r\n"+of5, "first"), "502; open, dropped"},
		{"no name", "GET", respond(": b\r\n"+of5, "first"), "502; open, dropped"},
		{"no colon", "GET", respond("A\r\n"+of5, "first"), "502; open, dropped"},
		{"fold", "GET", respond("A: b\r\n c\r\n"+of5, "first"), "200 first; open, reused"},
		{"fold of the first line", "GET", respond(" A: b\r\n"+of5, "first"), "502; open, dropped"},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, dropped"},
		{"HTTP/1.0 with keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"HTTP/1.2", "GET", "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"HTTP/2.0", "GET", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"HTTP/0.9", "GET", "HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, dropped"},
		{"http/1.1", "GET", "http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"HTTP/1.1x", "GET", "HTTP/1.1x 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"ICY", "GET", "ICY 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"no version", "GET", "200 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"no head", "GET", "first\r\n\r\n", "502; open, dropped"},
		{"empty line first", "GET", "\r\n" + respond(of5, "first"), "502; open, dropped"},
		{"status 0", "GET", "HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status 99", "GET", "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status 99 in two digits", "GET", "HTTP/1.1 99 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status 999", "GET", "HTTP/1.1 999 OK\r\nContent-Length: 5\r\n\r\nfirst", "999 first; open, reused"},
		{"status 1000", "GET", "HTTP/1.1 1000 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status of letters", "GET", "HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status with a sign", "GET", "HTTP/1.1 +20 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status below zero", "GET", "HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"status with letters behind", "GET", "HTTP/1.1 200OK\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"no status", "GET", "HTTP/1.1\r\nContent-Length: 5\r\n\r\nfirst", "502; open, dropped"},
		{"two spaces", "GET", "HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"no reason but a space", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"NUL in the reason", "GET", "HTTP/1.1 200 O\x00K\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"CR in the reason", "GET", "HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nfirst", "200 first; open, reused"},
		{"half a head", "GET", "HTTP/1.1 200 OK\r\nContent-Le" + hangsUp, "502; open, dropped"},
		{"no empty line", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + hangsUp, "502; open, dropped"},
		{"half a status line", "GET", "HTTP/1.1 2" + hangsUp, "502; open, dropped"},
		{"nothing", "GET", hangsUp, "502; open, dropped"},
		{"odd hop-by-hop names", "GET", respond("Connection: , \"a\", b c, \xff\r\n"+of5, "first"), "200 first; open, reused"},
		{"length in a fold", "GET", respond("A: b\r\n Content-Length: 70\r\n"+of5, "first"), "200 first; open, reused"},
	}},
	{"bodies", []odd{
		{"up to the end", "GET", respond("", "first"+hangsUp), "200 first; open, dropped"},
		{"up to the end over HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nfirst" + hangsUp, "200 first; open, dropped"},
		{"up to the end, with keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nfirst" + hangsUp, "200 first; open, dropped"},
		{"up to the end, like a response", "GET", respond("", poison+hangsUp), "200 " + poison + "; open, dropped"},
		{"shorter than its length", "GET", respond(of5, "fir"+hangsUp), "200 fir broken off; closed, dropped"},
		{"none of its length", "GET", respond(of5, hangsUp), "200 broken off; closed, dropped"},
		{"with close", "GET", respond("Connection: close\r\n"+of5, "first"), "200 first; open, dropped"},
		{"with close in a list", "GET", respond("Connection: a, Close\r\n"+of5, "first"), "200 first; open, dropped"},
		{"with close and keep-alive", "GET", respond("Connection: keep-alive\r\nConnection: close\r\n"+of5, "first"), "200 first; open, dropped"},
		{"chunked, like a response", "GET", chunky("2c\r\n" + poison + "\r\n0\r\n\r\n"), "200 " + poison + "; open, reused"},
	}},
	// RFC 9110, 15.2.
	{"interim", []odd{
		{"continue", "GET", "HTTP/1.1 100 Continue\r\n\r\n" + respond(of5, "first"), "200 first; open, reused"},
		{"hints", "GET", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + respond(of5, "first"), "103, 200 first; open, reused"},
		{"unknown", "GET", "HTTP/1.1 199 What\r\n\r\n" + respond(of5, "first"), "199, 200 first; open, reused"},
		{"with a length of nothing", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n" + respond(of5, "first"), "103, 200 first; open, reused"},
		{"with a length", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 44\r\n\r\n" + respond(of5, "first"), "103, 200 first; open, reused"},
		{"with a coding", "GET", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + respond(of5, "first"), "103, 200 first; open, reused"},
		{"with a body", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nfirst" + respond(of5, "first"), "103, 502; open, dropped"},
		{"with two lengths", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + respond(of5, "first"), "502; open, dropped"},
		{"with close", "GET", "HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + respond(of5, "first"), "103, 200 first; open, reused"},
		{"and nothing more", "GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + hangsUp, "103, 502; open, dropped"},
		{"flood", "GET", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 200) + respond(of5, "first"), "103, 502; open, dropped"},
		{"flood of 100", "GET", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 200) + respond(of5, "first"), "502; open, dropped"},
		{"101 unasked", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + poison, "502; open, dropped"},
		{"101 unasked, without a protocol", "GET", "HTTP/1.1 101 Switching Protocols\r\n\r\n" + poison, "502; open, dropped"},
		{"101 to something else", "GET /first HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + poison, "502; open, dropped"},
		{"101 to nothing", "GET /first HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n" + poison, "502; open, dropped"},
	}},
	// What follows a response must cost the connection. It comes at once with it: what comes later nobody can
	// tell from the next response, unless it comes while the connection is idle.
	{"behind the end", []odd{
		{"length", "GET", respond(of5, "first"+poison), "200 first; open, dropped"},
		{"length, some bytes", "GET", respond(of5, "firstly"), "200 first; open, dropped"},
		{"length, empty line", "GET", respond(of5, "first\r\n"), "200 first; open, dropped"},
		{"length of nothing", "GET", respond("Content-Length: 0\r\n", poison), "200; open, dropped"},
		{"length, ten responses", "GET", respond(of5, "first"+strings.Repeat(poison, 10)), "200 first; open, dropped"},
		{"length, a long response", "GET", respond(of5, "first"+poison+strings.Repeat("x", 1<<16)), "200 first; open, dropped"},
		{"chunked", "GET", chunky("5\r\nfirst\r\n0\r\n\r\n" + poison), "200 first; open, dropped"},
		{"chunked, some bytes", "GET", chunky("5\r\nfirst\r\n0\r\n\r\n0\r\n\r\n"), "200 first; open, dropped"},
		{"chunked, with trailers", "GET", chunky("5\r\nfirst\r\n0\r\nA: b\r\n\r\n" + poison), "200 first; open, dropped"},
		{"length and chunked", "GET", respond("Content-Length: 70\r\nTransfer-Encoding: chunked\r\n", "5\r\nfirst\r\n0\r\n\r\n"+poison), "200 first; open, dropped"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n" + poison, "204; open, dropped"},
		{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" + poison, "204; open, dropped"},
		{"204, chunked", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\n" + poison + "\r\n0\r\n\r\n", "204; open, dropped"},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + poison, "304; open, dropped"},
		{"HEAD", "HEAD", respond("Content-Length: 44\r\n", poison), "200; open, dropped"},
		{"HEAD, chunked", "HEAD", chunky("2c\r\n" + poison + "\r\n0\r\n\r\n"), "200; open, dropped"},
		{"HEAD, no length", "HEAD", respond("", poison), "200; open, dropped"},
		{"close", "GET", respond("Connection: close\r\n"+of5, "first"+poison), "200 first; open, dropped"},
		{"keep-alive over HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst" + poison, "200 first; open, dropped"},
		{"interim response", "GET", respond(of5, "first") + "HTTP/1.1 100 Continue\r\n\r\n" + poison, "200 first; open, dropped"},
		{"error", "GET", "HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nfirst" + poison, "500 first; open, dropped"},
	}},
}

// play asks for the odd response and then for the good one, and says what went wrong.
func (r odd) play(t *testing.T, in lane, pieces func(string) []string) error {
	response, ends := strings.CutSuffix(r.response, hangsUp)
	o := startOrigin(t, func(w *wire, m *message) {
		if m.target != "/first" {
			w.send(respond("Content-Length: 6\r\n", "second"))
			return
		}
		w.send(pieces(response)...)
		if ends {
			w.stop("")
		}
	})
	p := before(t, in, o.backend)
	w := p.dial()
	request := r.request
	method, _, whole := strings.Cut(request, " ")
	if !whole {
		request += " /first HTTP/1.1\r\nHost: x\r\n\r\n"
	}
	w.send(request)
	var got []string
	var m *message
	for m == nil || m.status < "200" {
		var err error
		m, err = readStrict(w.r, method)
		s := m.status
		if m.body != "" && s != "502" { // ours
			s += " " + m.body
		}
		switch {
		case err == errCut && m.status != "":
			s += " broken off; closed"
		case err != nil:
			return fmt.Errorf("the client got %q, then %q and %w", got, s, err)
		case m.status < "200":
		case slices.Contains(m.header["connection"], "close"):
			if rest := w.rest(); rest != "" {
				return fmt.Errorf("behind the last response the client got %q", rest)
			}
			s += "; closed"
		default:
			s += "; open"
		}
		if len(got) == 0 || s != got[len(got)-1] {
			got = append(got, s)
		}
	}
	if strings.HasSuffix(got[len(got)-1], "closed") {
		w = p.dial()
	}
	w.send("GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
	if m, err := readStrict(w.r, "GET"); err != nil || m.status != "200" || m.body != "second" {
		return fmt.Errorf("the second request got %s %q, %v", m.status, m.body, err)
	}
	w.Close()
	state := map[bool]string{true: "reused", false: "dropped"}[o.conns.Load() == 1]
	return errors.Join(either("the client got", strings.Join(got, ", ")+", "+state, r.want), o.end(t, p, method+" /first, GET /second", true))
}

// TestMalformedResponses has a backend send each odd response, and looks whether the next one is right.
func TestMalformedResponses(t *testing.T) { run(t, testMalformedResponses) }

func testMalformedResponses(t *testing.T, in lane) {
	atOnce(t, func(start func(string, func(*testing.T))) {
		for _, subject := range oddResponses {
			for _, r := range subject.odds {
				for _, way := range ways {
					if way.name != "whole" && (way.name != "bytes" || subject.subject == "behind the end") {
						continue
					}
					name := subject.subject + "/" + r.name
					start(name+"/"+way.name, func(t *testing.T) {
						if err := r.play(t, in, way.pieces); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
	})
}

// TestUnaskedResponse: what a backend says over an idle connection is no answer to the next request.
func TestUnaskedResponse(t *testing.T) { run(t, testUnaskedResponse) }

func testUnaskedResponse(t *testing.T, in lane) {
	for name, unasked := range map[string]string{
		"response": poison, "interim": "HTTP/1.1 100 Continue\r\n\r\n", "empty line": "\r\n", "byte": "x", "half a response": "HTTP/1.1 200",
		"timeout": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			idle := make(chan *wire, 2)
			o := startOrigin(t, func(w *wire, m *message) {
				echo(w, m)
				idle <- w
			})
			p := before(t, in, o.backend)
			w := p.dial()
			for _, target := range []string{"/first", "/second"} {
				w.send("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
				m, err := readStrict(w.r, "GET")
				if err != nil || m.status != "200" || !slices.Equal(m.header["saw"], []string{strconv.Quote("GET " + target)}) {
					t.Fatalf("%s got %s %q %q, %v", target, m.status, m.header["saw"], m.body, err)
				}
				if target == "/first" {
					back := soon(t, idle, "the first request")
					back.send(unasked)
					until(t, "the proxy's kernel has it", func() bool { return unsent(back) == 0 })
				}
			}
			w.Close()
			if err := o.end(t, p, "GET /first, GET /second", true); err != nil {
				t.Error(err)
			}
		})
	}
}

// unsent is how much the other side of an origin's connection has not acknowledged.
func unsent(w *wire) (n int32) {
	raw, err := w.Conn.(*recorded).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return -1
	}
	raw.Control(func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return n
}
