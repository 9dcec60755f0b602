package balancer

import (
	"errors"
	"fmt"
	"strings"
)

// A Key says what of a request decides where it goes (nginx: hash key): its parts one after another.
type Key []Part

// A Part of a Key is text as it stands, or a variable of the request.
type Part struct {
	Text string // if Var is empty
	Var  string // remote_addr, request_uri, host, http, cookie, arg; remote_net for ip_hash
	Name string // of http, cookie and arg: "x_user"
}

// keyVariables are what users may write.
const keyVariables = "$remote_addr, $request_uri, $host, $http_NAME, $cookie_NAME, $arg_NAME"

var errNoVariable = errors.New("a key without a variable is the same for all requests: want " + keyVariables)

// parseKey reads "$host$arg_user" and "user-${cookie_id}".
func parseKey(text string) (k Key, err error) {
	variable := false
	for text != "" {
		plain, rest, found := strings.Cut(text, "$")
		if strings.ContainsAny(plain, "\"'\\;{} \t\r\n") {
			return nil, fmt.Errorf("%q in a key: want variables and text without quotes, semicolons, braces and backslashes", plain)
		}
		if plain != "" {
			k = append(k, Part{Text: plain})
		}
		if !found {
			break
		}
		braced := strings.HasPrefix(rest, "{")
		rest = strings.TrimPrefix(rest, "{")
		end := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
		if end < 0 {
			end = len(rest)
		}
		p, ok := variablePart(rest[:end])
		if !ok || braced && !strings.HasPrefix(rest[end:], "}") {
			return nil, fmt.Errorf("unknown variable in %q: want %s", "$"+rest, keyVariables)
		}
		if rest = rest[end:]; braced {
			rest = rest[1:]
		}
		k, text, variable = append(k, p), rest, true
	}
	if !variable {
		return nil, errNoVariable
	}
	return k, nil
}

func variablePart(name string) (Part, bool) {
	switch name {
	case "remote_addr", "request_uri", "host":
		return Part{Var: name}, true
	}
	kind, rest, _ := strings.Cut(name, "_")
	switch kind {
	case "http", "cookie", "arg":
		return Part{Var: kind, Name: rest}, rest != ""
	}
	return Part{}, false
}

// A Hasher makes a Query.Key of the values of a Key's parts, written one after another. The zero value is ready.
// (FNV-1a, 64 bits.)
type Hasher struct{ sum uint64 }

// Add takes more of the values.
func (h *Hasher) Add(s string) {
	if h.sum == 0 && s != "" {
		h.sum = 14695981039346656037
	}
	for i := range len(s) {
		h.sum = (h.sum ^ uint64(s[i])) * 1099511628211
	}
}

// Sum is the key; zero if there was nothing.
func (h *Hasher) Sum() uint64 { return h.sum }
