package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// longest is how much of what a user wrote is repeated to them.
const longest = 200

// Quote is what a user wrote, for a message: quoted, and cut where it is long.
func Quote(s string) string { return strconv.Quote(cut(s)) }

// Clip is a message with all that is long in it cut: what stands in quotes, and words.
func Clip(text string) string {
	if len(text) <= longest {
		return text
	}
	var b strings.Builder
	for text != "" {
		n := strings.IndexAny(text, `" `)
		switch {
		case n < 0:
			n = len(text)
		case n == 0 && text[0] == '"':
			if quoted, err := strconv.QuotedPrefix(text); err == nil {
				value, _ := strconv.Unquote(quoted)
				b.WriteString(Quote(value))
				text = text[len(quoted):]
				continue
			}
			n = 1
		case n == 0:
			n = 1
		}
		b.WriteString(cut(text[:n]))
		text = text[n:]
	}
	return b.String()
}

// cut is the beginning of a long text.
func cut(s string) string {
	if len(s) <= longest {
		return s
	}
	n := longest
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// without is what is wrong with a value, for a message that begins with the value: that stands there once.
func without(why, value string) string {
	quoted := strconv.Quote(value)
	return strings.Replace(strings.TrimPrefix(why, quoted+": "), " "+quoted, "", 1)
}
