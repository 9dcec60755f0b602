package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestSecretFiles: every variable that holds a secret can name a file in its place.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "0123456789abcdef"
	none, empty := filepath.Join(dir, "none"), write("empty", "\n")
	for _, c := range []struct{ name, file, env, want, err string }{
		{"plain", write("plain", secret), "", secret, ""},
		{"newline", write("newline", secret+"\n"), "", secret, ""},
		{"CR LF", write("crlf", secret+"\r\n"), "", secret, ""},
		{"one newline only", write("two", secret+"\n\n"), "", secret + "\n", ""},
		{"spaces", write("spaces", " "+secret+" "), "", " " + secret + " ", ""},
		{"no name of a file", "", secret, secret, ""},
		{"both", write("both", secret), secret, "", "LONGSHORE_STICKY_SECRET and LONGSHORE_STICKY_SECRET_FILE: only one of them is allowed"},
		{"no file", none, "", "", `LONGSHORE_STICKY_SECRET_FILE="` + none + `": no such file or directory: want a file that holds the secret, such as /run/secrets/NAME`},
		{"a folder", dir, "", "", `LONGSHORE_STICKY_SECRET_FILE="` + dir + `": is a directory: want a file that holds the secret, such as /run/secrets/NAME`},
		{"empty", empty, "", "", `LONGSHORE_STICKY_SECRET_FILE="` + empty + `": the file is empty`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, warnings, err := Load([]string{"LONGSHORE_STICKY_SECRET_FILE=" + c.file, "LONGSHORE_STICKY_SECRET=" + c.env})
			switch {
			case len(warnings) > 0:
				t.Errorf("warnings: %q", warnings)
			case c.err == "" && (err != nil || cfg.StickySecret != c.want):
				t.Errorf("got %q %v, want %q", cfg.StickySecret, err, c.want)
			case c.err != "" && (err == nil || err.Error() != c.err):
				t.Errorf("error\n%v, want\n%s", err, c.err)
			}
		})
	}
}

// TestSecretsAreTagged: a setting whose name says that it is a secret can be in a file.
func TestSecretsAreTagged(t *testing.T) {
	for key, f := range fields(reflect.TypeFor[Config](), Prefix) {
		for _, word := range []string{"SECRET", "PASSWORD", "TOKEN", "_KEY"} {
			if strings.Contains(key, word) && !f.secret {
				t.Errorf("%s has no tag that says so", key)
			}
		}
	}
}
