// Package readme keeps generated parts of the README in step with the code, for tests.
package readme

import (
	"os"
	"strings"
	"testing"
)

// Check compares what stands between the README's marks of a part with want. UPDATE=1 writes it.
// Tests that call it run two folders below the root of the module.
func Check(t testing.TB, part, want string) {
	t.Helper()
	const file = "../../README.md"
	begin, end := "<!-- "+part+": begin -->\n", "<!-- "+part+": end -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	got, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Fatalf("README.md has no %q … %q", begin, end)
	case got == want:
	case os.Getenv("UPDATE") == "":
		t.Fatalf("README.md, %s: not what the code says; UPDATE=1 go test ./internal/... writes it", part)
	default:
		if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
