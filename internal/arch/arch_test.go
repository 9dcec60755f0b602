// Package arch keeps promises about the whole module: who imports whom, and that every package says
// what it is.
package arch

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type listed struct {
	ImportPath, Doc string
	Imports, Deps   []string
}

func packages(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps", "longshore/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]listed)
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, "longshore/")] = p
	}
	return all
}

// graph says which of our packages each package may import.
var graph = map[string][]string{
	"balancer":          {},
	"health":            {},
	"internal/http1":    {},
	"internal/sock":     {},
	"internal/upstream": {"internal/http1", "internal/sock"},
	"internal/version":  {},

	"discovery":       {"balancer", "health"},
	"internal/config": {"balancer", "health", "discovery"},

	"proxy":            {"discovery", "balancer", "health", "internal/http1", "internal/sock", "internal/upstream"},
	"discovery/docker": {"balancer", "discovery", "health", "internal/config"},

	"internal/accesslog": {"proxy"},
	"internal/metrics":   {"proxy", "discovery", "internal/version"},
	"internal/admin":     {"proxy", "discovery"},
	"cmd/longshore": {"discovery", "discovery/docker", "health", "internal/accesslog", "internal/admin",
		"internal/config", "internal/metrics", "internal/version", "proxy"},

	"bench":                     {},
	"internal/arch":             {},
	"internal/conformance":      {},
	"internal/dockertest":       {},
	"internal/example/flaskapp": {},
	"internal/docs":             {},
	"internal/testaddr":         {},
	"internal/testapp":          {},
}

func TestImports(t *testing.T) {
	for name, p := range packages(t) {
		allowed, known := graph[name]
		if !known {
			t.Errorf("%s is not in the graph: say here what it may import", name)
			continue
		}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, "longshore/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which the graph does not allow", name, ours)
			}
		}
	}
}

// TestDependencies keeps each dependency to the packages it is for.
func TestDependencies(t *testing.T) {
	only := map[string][]string{
		"github.com/docker/":     {"discovery/docker", "bench"},
		"github.com/prometheus/": {"internal/metrics"},
		"github.com/caarlos0/":   {"internal/config"},
		"go.yaml.in/":            {"internal/config"},
		"golang.org/x/net/idna":  {"internal/config"},
		"golang.org/x/sync":      {"cmd/longshore", "discovery/docker", "bench"},

		"google.golang.org/protobuf/encoding/protowire": {"health"},
		"github.com/HdrHistogram/":                      {"bench"},
		"github.com/containerd/errdefs":                 {"discovery/docker"},
	}
	all := packages(t)
	for name, p := range all {
		for _, imp := range p.Imports {
			if !strings.Contains(imp, ".") || strings.HasPrefix(imp, "longshore") {
				continue
			}
			ok := false
			for dep, users := range only {
				ok = ok || strings.HasPrefix(imp, dep) && slices.Contains(users, name)
			}
			if !ok {
				t.Errorf("%s imports %s", name, imp)
			}
		}
	}
	for _, dep := range all["proxy"].Deps {
		if strings.Contains(dep, "docker") || strings.Contains(dep, "prometheus") {
			t.Errorf("proxy reaches %s", dep)
		}
	}
}

func TestPackageComments(t *testing.T) {
	for name, p := range packages(t) {
		if p.Doc == "" && name != "internal/arch" {
			t.Errorf("%s has no package comment", name)
		}
	}
}
