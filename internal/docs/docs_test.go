package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"longshore/discovery"
	"longshore/internal/config"
)

// pages are all documents that people read, with their texts.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.Clean(f)] = string(text)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d pages", len(all))
	}
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence   = regexp.MustCompile("(?s)```.*?```")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noise   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are what links can lead to on a page, as GitHub names its headings.
func anchors(text string) map[string]bool {
	all := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all[strings.ReplaceAll(noise.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// TestLinks follows the links between the pages.
func TestLinks(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			to := page
			if path != "" {
				to = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: a link to %s, which is not there", page, m[1])
			} else if anchor != "" && !anchors(all[to])[anchor] {
				t.Errorf("%s: a link to %s, which has no such heading", page, m[1])
			}
		}
	}
}

// TestReadmeIsShort: it is read by somebody who has a minute.
func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(pages(t)[filepath.Join(Root, "README.md")], "\n"); n > 200 {
		t.Errorf("README.md has %d lines, want 200 at most", n)
	}
}

// TestVariablesExist: a page that tells of a variable which is not there costs its reader an hour.
func TestVariablesExist(t *testing.T) {
	known := make(map[string]bool)
	reference, err := os.ReadFile(filepath.Join(Root, "docs", "reference.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`LONGSHORE_[A-Z][A-Z0-9_]*[A-Z0-9]`)
	table, _, ok := strings.Cut(string(reference), "<!-- settings: end -->")
	if !ok {
		t.Fatal("docs/reference.md has no table of settings")
	}
	for _, v := range name.FindAllString(table, -1) {
		known[v] = true
	}
	for page, text := range pages(t) {
		for _, v := range name.FindAllString(text, -1) {
			if !known[v] && v != "LONGSHORE_HEALTH" { // LONGSHORE_HEALTH_* is all of them
				t.Errorf("%s: %s is not a variable", page, v)
			}
		}
	}
}

// A composeFile is what the tests look at of one.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Environment map[string]string
		Labels      map[string]string
	}
}

// TestExamples reads each example as Compose and Longshore do.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(Root, "docs", "examples", "*", "docker-compose.yml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var c composeFile
			if err := yaml.Unmarshal(text, &c); err != nil {
				t.Fatal(err)
			}
			proxies := 0
			for name, s := range c.Services {
				if s.Image == "longshore" {
					proxies++
					var env []string
					for k, v := range s.Environment {
						env = append(env, k+"="+v)
					}
					if _, warnings, err := config.Load(env); err != nil || len(warnings) > 0 {
						t.Errorf("service %s: %v, %q", name, err, warnings)
					}
				}
				if _, warnings, err := config.ParseLabels(s.Labels, discovery.Settings{}); err != nil || len(warnings) > 0 {
					t.Errorf("labels of %s: %v, %q", name, err, warnings)
				}
			}
			if proxies != 1 {
				t.Errorf("%d services have the image longshore, want 1", proxies)
			}
			for _, compose := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
				if exec.Command(compose[0], append(compose[1:], "version")...).Run() != nil {
					if os.Getenv("CI") == "true" {
						t.Errorf("%s is not there", strings.Join(compose, " "))
					}
					continue
				}
				if out, err := exec.Command(compose[0], append(compose[1:], "-f", f, "config", "-q")...).CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", strings.Join(compose, " "), err, out)
				}
			}
		})
	}
}
