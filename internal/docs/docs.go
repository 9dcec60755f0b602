// Package docs keeps the documents in step with the code, for tests.
package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root is the module's folder, for tests that run two folders below it.
const Root = "../.."

// Check compares what stands between the marks of a part in a page below docs with want. UPDATE=1 writes it.
// Tests that call it run two folders below the root of the module.
func Check(t testing.TB, page, part, want string) {
	t.Helper()
	file := filepath.Join(Root, "docs", page)
	begin, end := "<!-- "+part+": begin -->\n", "<!-- "+part+": end -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	got, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Fatalf("docs/%s has no %q … %q", page, begin, end)
	case got == want:
	case os.Getenv("UPDATE") == "":
		t.Fatalf("docs/%s, %s: not what the code says; UPDATE=1 go test ./internal/... writes it", page, part)
	default:
		if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
