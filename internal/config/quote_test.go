package config

import (
	"strings"
	"testing"
)

// TestLongValues: what users wrote is repeated, but not at any length.
func TestLongValues(t *testing.T) {
	long := strings.Repeat("ä", 300_000)
	quoted := `"` + strings.Repeat("ä", 100) + `…"`
	for got, want := range map[string]string{
		Quote("short"):                    `"short"`,
		Quote(long):                       quoted,
		Clip("a \"b\" c"):                 "a \"b\" c",
		Clip(`x="` + long + `": want y`):  "x=" + quoted + ": want y",
		Clip(`x="` + long + `: no end`):   "x=" + strings.Trim(quoted, "…\"")[:0] + `"` + strings.Repeat("ä", 100) + "… no end",
		Clip("label " + long + " is odd"): "label " + strings.Trim(quoted, `"`) + " is odd",
	} {
		if got != want {
			t.Errorf("got %.300q\nwant %.300q", got, want)
		}
	}
	for _, name := range []string{"port", "host", "path", "rewrite", "strip", "balancer", "sticky", "health.match", "health.status", "health.host", "max_body", "a.port", "nonsense"} {
		_, warnings, err := ParseLabels(map[string]string{"longshore." + name: long, "longshore." + name + long: "x"}, Defaults())
		if err != nil && len(err.Error()) > 3000 {
			t.Errorf("longshore.%s: an error of %d bytes", name, len(err.Error()))
		}
		for _, w := range warnings {
			if len(w) > 1000 {
				t.Errorf("longshore.%s: a warning of %d bytes", name, len(w))
			}
		}
	}
	_, warnings, err := Load([]string{"LONGSHORE_UPSTREAM=" + long + ":x", "LONGSHORE_LABEL=" + long, "LONGSHORE_" + long + "=1", "DEFAULT_HOST=" + long})
	if err == nil || len(err.Error()) > 3000 || len(warnings) != 1 || len(warnings[0]) > 1000 {
		t.Errorf("got an error of %d bytes, warnings %.300q", len(err.Error()), warnings)
	}
	if _, err := ParseVirtual([]string{"VIRTUAL_HOST=" + long}); err == nil || len(err.Error()) > 1000 {
		t.Errorf("VIRTUAL_HOST: %.1000v", err)
	}
}
