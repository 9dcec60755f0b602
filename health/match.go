package health

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// A Match says what the answer to an HTTP check must be like, in the words of nginx's match block:
//
//	status 200-399; header Content-Type ~ json; header ! X-Maintenance; body ~ "ok|ready"
//
// All clauses must hold. The zero Match has none. It is kept as text, so that settings can be compared
// with ==; to read that takes microseconds, and a check takes longer.
type Match struct{ text string }

// String gives the canonical form.
func (m Match) String() string { return m.text }

// UnmarshalText parses a match.
func (m *Match) UnmarshalText(b []byte) error {
	all, err := parseMatch(string(b))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New(`want clauses such as status 200-399; header Content-Type ~ json; body ~ "ok|ready"`)
	}
	*m = Match{all.String()}
	return nil
}

// clauses are a Match that was read.
type clauses []clause

// A clause is one line of nginx's match block.
type clause struct {
	subject string // status, header or body
	not     bool   // status is none of the list; header is not there
	status  []codes
	name    string // of the header
	op      string // = != ~ or !~; none: the header is there
	value   string
	re      *regexp.Regexp // for ~ and !~
}

func parseMatch(s string) (all clauses, err error) {
	lines, err := splitMatch(s)
	if err != nil {
		return nil, err
	}
	for _, words := range lines {
		c, err := parseClause(words)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", joinWords(words), err)
		}
		all = append(all, c)
	}
	return all, nil
}

func parseClause(words []string) (clause, error) {
	c := clause{subject: words[0]}
	rest := words[1:]
	if len(rest) > 0 && rest[0] == "!" && c.subject != "body" {
		c.not, rest = true, rest[1:]
	}
	switch c.subject {
	case "status":
		for _, w := range rest {
			r, ok := parseCodes(w)
			if !ok {
				return c, fmt.Errorf("%q: want status codes such as 200 301-303, or ! 500", w)
			}
			c.status = append(c.status, r)
		}
		if len(rest) == 0 {
			return c, errors.New("want status codes such as 200 301-303, or ! 500")
		}
		return c, nil
	case "header":
		if len(rest) == 0 || !isToken(rest[0]) || len(rest) != 1 && (len(rest) != 3 || c.not) {
			return c, errors.New("want header NAME, header ! NAME, or header NAME and one of = != ~ !~ and a value, in quotes if it has spaces")
		}
		c.name = http.CanonicalHeaderKey(rest[0])
		if rest = rest[1:]; len(rest) == 0 {
			return c, nil
		}
		if !slices.Contains([]string{"=", "!=", "~", "!~"}, rest[0]) {
			return c, fmt.Errorf("%q: want =, !=, ~ or !~", rest[0])
		}
	case "body":
		if len(rest) != 2 || rest[0] != "~" && rest[0] != "!~" {
			return c, errors.New("want body ~ or body !~ and a regular expression, in quotes if it has spaces")
		}
	case "require":
		return c, errors.New("there are no variables to require: want status, header or body")
	default:
		return c, errors.New("want a clause that begins with status, header or body")
	}
	c.op, c.value = rest[0], rest[1]
	if c.op == "=" || c.op == "!=" {
		return c, nil
	}
	var err error
	if c.re, err = regexp.Compile(c.value); err != nil {
		var se *syntax.Error
		if errors.As(err, &se) {
			err = fmt.Errorf("regular expression: %s: %q", se.Code, se.Expr)
		}
	}
	return c, err
}

// String gives the canonical form.
func (all clauses) String() string {
	lines := make([]string, len(all))
	for i, c := range all {
		words := []string{c.subject}
		if c.not {
			words = append(words, "!")
		}
		for _, r := range c.status {
			words = append(words, r.String())
		}
		if c.name != "" {
			words = append(words, c.name)
		}
		if c.op != "" {
			words = append(words, c.op, c.value)
		}
		lines[i] = joinWords(words)
	}
	return strings.Join(lines, "; ")
}

// on reports whether there is a clause on a subject.
func (all clauses) on(subject string) bool {
	return slices.ContainsFunc(all, func(c clause) bool { return c.subject == subject })
}

// judge says what is wrong with one part of an answer: its status, header or body. Empty: nothing.
// It does not say what the value is: one that is new each time would make each check look like news.
func (all clauses) judge(subject string, status int, h http.Header, body []byte) (why string) {
	for _, c := range all {
		if c.subject != subject {
			continue
		}
		switch subject {
		case "status":
			if slices.ContainsFunc(c.status, func(r codes) bool { return r.contain(status) }) == c.not {
				return fmt.Sprint("status ", status)
			}
		case "header":
			values := h.Values(c.name)
			switch {
			case c.not && len(values) > 0:
				return "header " + cut(c.name) + " is set"
			case !c.not && len(values) == 0:
				return "header " + cut(c.name) + " is missing"
			case c.op != "" && !c.holds(values...):
				return "header " + cut(c.name) + c.unmatched()
			}
		case "body":
			if !c.holds(string(body)) {
				return "body" + c.unmatched()
			}
		}
	}
	return ""
}

// holds reports whether one of the values is as the clause says, or with ! all are.
func (c clause) holds(values ...string) bool {
	equal := func(v string) bool { return v == c.value }
	if c.re != nil {
		equal = c.re.MatchString
	}
	return slices.ContainsFunc(values, equal) != strings.HasPrefix(c.op, "!")
}

func (c clause) unmatched() string {
	return " does not match " + joinWords([]string{c.op, cut(c.value)})
}

// cut is the beginning of what a user wrote, for a message: a label can be of any length.
func cut(s string) string {
	const longest = 200
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}

// splitMatch splits text into clauses, and those into words, as nginx reads its configuration: a semicolon
// ends a clause and white space a word; a quoted word may hold both; a backslash keeps what follows from
// ending a word, and stays unless it is before a quote or a backslash, or means a tab or line end.
func splitMatch(s string) (lines [][]string, err error) {
	const space = " \t\r\n"
	var words []string
	end := func() {
		if len(words) > 0 {
			lines = append(lines, words)
		}
		words = nil
	}
	for s = strings.TrimLeft(s, space); s != ""; s = strings.TrimLeft(s, space) {
		if s[0] == ';' {
			end()
			s = s[1:]
			continue
		}
		stop, quoted := space+";", s[0] == '"' || s[0] == '\''
		if quoted {
			stop, s = s[:1], s[1:]
		}
		var word strings.Builder
		i := 0
		for ; i < len(s) && !strings.Contains(stop, s[i:i+1]); i++ {
			if s[i] != '\\' || i+1 == len(s) {
				word.WriteByte(s[i])
				continue
			}
			i++
			if as, ok := escapes[s[i]]; ok {
				word.WriteByte(as)
			} else {
				word.WriteString(s[i-1 : i+1])
			}
		}
		if quoted {
			if i == len(s) {
				return nil, fmt.Errorf("%q: the quote is not closed", stop+s)
			}
			if i++; i < len(s) && !strings.Contains(space+";", s[i:i+1]) {
				return nil, fmt.Errorf("%q: want a space or a semicolon behind the quote", s[i:])
			}
		}
		words = append(words, word.String())
		s = s[i:]
	}
	end()
	return lines, nil
}

var escapes = map[byte]byte{'"': '"', '\'': '\'', '\\': '\\', 't': '\t', 'r': '\r', 'n': '\n'}

var quoting = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`, "\r", `\r`, "\n", `\n`)

// joinWords is the other way round.
func joinWords(words []string) string {
	quoted := slices.Clone(words)
	for i, w := range quoted {
		if w == "" || strings.ContainsAny(w, " \t\r\n;\"'\\") {
			quoted[i] = `"` + quoting.Replace(w) + `"`
		}
	}
	return strings.Join(quoted, " ")
}

// isToken reports whether s can be the name of a header.
func isToken(s string) bool {
	const chars = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return s != "" && s != "!" && !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(chars, r) })
}
