package main

import (
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestScenarios: data that refer to what there is.
func TestScenarios(t *testing.T) {
	seen := make(map[string]bool)
	for _, sc := range scenarios {
		if seen[sc.Name] {
			t.Errorf("%s is there twice", sc.Name)
		}
		seen[sc.Name] = true
		if sc.What == "" || sc.Replicas < 1 || len(sc.Steps) == 0 {
			t.Errorf("%s: what %q, %d replicas, %d steps: want all", sc.Name, sc.What, sc.Replicas, len(sc.Steps))
		}
		for _, st := range sc.Steps {
			if verbs[st.Do] == nil {
				t.Errorf("%s: there is no verb %q", sc.Name, st.Do)
			}
			ofContainer := slices.Contains([]string{"kill", "stop", "start", "restart", "pause", "unpause", "squat"}, st.Do)
			if ofContainer && (st.N < 1 || st.N > sc.Replicas) {
				t.Errorf("%s: %s: there are %d replicas", sc.Name, st, sc.Replicas)
			}
			if st.Do == "squat" && !sc.Subnet {
				t.Errorf("%s: only a network with a subnet has fixed addresses", sc.Name)
			}
		}
		if after := sc.App["LISTEN_AFTER"]; after != "" && sc.listenAfter() == 0 {
			t.Errorf("%s: LISTEN_AFTER %q is no duration", sc.Name, after)
		}
		if quick := sc.shorter(); quick.Steps[0].After >= sc.Steps[0].After {
			t.Errorf("%s: the quick one begins after %g s, want less than %g", sc.Name, quick.Steps[0].After, sc.Steps[0].After)
		}
	}
	for _, name := range fewScenarios {
		if !seen[name] {
			t.Errorf("quick runs have peers on %q, which is no scenario", name)
		}
	}
}

func TestContenders(t *testing.T) {
	if contenders[0].Name != "longshore" {
		t.Errorf("the first contender is %s: the soak wants longshore", contenders[0].Name)
	}
	for _, c := range contenders {
		if (c.Name == "longshore") != c.Admin {
			t.Errorf("%s: admin is %v", c.Name, c.Admin)
		}
		if c.Conf != "" && !strings.Contains(strings.Join(c.Command, " "), "/etc/proxy.conf") && !strings.Contains(c.Command[0], "/bench") {
			t.Errorf("%s does not read its configuration: %v", c.Name, c.Command)
		}
	}
	resolve := contenders[slices.IndexFunc(contenders, func(c contender) bool { return c.Name == "nginx-resolve" })]
	for version, missing := range map[string]bool{
		"nginx version: nginx/1.22.1": true, "nginx version: nginx/1.27.2": true, "nginx version: nginx/1.27.3": false,
		"nginx version: nginx/1.29.0 (Ubuntu)": false, "nginx version: nginx/2.0.0": false,
	} {
		if got := resolve.missing(version) != ""; got != missing {
			t.Errorf("server … resolve with %s: missing %v, want %v", version, got, missing)
		}
	}
}

func TestPick(t *testing.T) {
	name := func(s scenario) string { return s.Name }
	for names, want := range map[string]int{"": len(scenarios), "all": len(scenarios), "kill": 1, "kill, pause": 2} {
		if got, err := pick("scenario", scenarios, name, names); err != nil || len(got) != want {
			t.Errorf("%q: %d scenarios, %v, want %d", names, len(got), err, want)
		}
	}
	_, err := pick("scenario", scenarios, name, "kill,ill")
	if _, wrong := err.(usageError); !wrong || !strings.Contains(err.Error(), `no scenario "ill"`) || !strings.Contains(err.Error(), "scale-up, ") {
		t.Errorf("an unknown name: %v, want a usage error that names it and those there are", err)
	}
}

// TestFlags: a wrong flag touches no engine.
func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-peers", "apache"}, {"-scenarios", "earthquake"}, {"-compose", "v3"}, {"-rate", "0"}, {"-runs", "0"}} {
		fs := flag.NewFlagSet("dynamic", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		err := dynamic(t.Context(), fs, args)
		if _, wrong := err.(usageError); !wrong || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want a usage error of one line", args, err)
		}
	}
}

func TestUsage(t *testing.T) {
	var usage strings.Builder
	fs := flag.NewFlagSet("dynamic", flag.ContinueOnError)
	fs.SetOutput(&usage)
	dynamicUsage(fs)
	for _, want := range []string{"scale-1-8-1", "nginx-reload"} {
		if !strings.Contains(usage.String(), want) {
			t.Errorf("the usage does not speak of %s", want)
		}
	}
}

func TestStreams(t *testing.T) {
	slow := scenario{Slow: true, Method: "POST"}.streams(300)
	if len(slow) != 2 || slow[0].Method != "POST" || slow[1].Path != "/slow?500ms" || slow[1].Asked != 500*time.Millisecond {
		t.Errorf("streams: %+v", slow)
	}
}
