package docker

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	api "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
)

var update = flag.Bool("update", false, "write what is into testdata/*.golden")

// What the engine said while compose worked, event by event, and what was known after each: the
// golden file is to be read. Inspects are answered at the end of a step, so what an event alone
// tells stands before it.
func TestRecorded(t *testing.T) {
	for _, name := range []string{"v1", "v2"} {
		t.Run(name, func(t *testing.T) {
			got := replay(t, "testdata/"+name+".jsonl")
			golden := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test -run Recorded -update . writes it; look at the difference):\n%s", golden, got)
			}
		})
	}
}

func replay(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var (
		out  strings.Builder
		last string
		w    = world{view: upstream(t, "web, /checked=checked:5090")}
		due  = make(todo)
	)
	hear := func(f func(world) (world, todo)) {
		before := w
		var ask todo
		w, ask = f(w)
		w = w.settle(before)
		maps.Copy(due, ask)
	}
	open := false
	changed := func() {
		open = open || w.complete()
		if now := see(w); open && now != last {
			last = now
			fmt.Fprintf(&out, "\t\t%s\n", strings.ReplaceAll(strings.TrimSpace(now), "\n", "\n\t\t"))
		}
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Kind string
			At   int64
			Body json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(0, line.At)
		into := func(v any) {
			if err := json.Unmarshal(line.Body, v); err != nil {
				t.Fatal(err)
			}
		}
		switch line.Kind {
		case "step":
			var s string
			into(&s)
			fmt.Fprintf(&out, "%s\n", s)
		case "event":
			var m events.Message
			into(&m)
			e, ok := readEvent(m, at)
			if !ok {
				continue
			}
			fmt.Fprintf(&out, "\t%s %s", m.Type, m.Action)
			for _, k := range []string{"name", "signal", "exitCode"} {
				if v := m.Actor.Attributes[k]; v != "" {
					fmt.Fprintf(&out, " %s", v)
				}
			}
			out.WriteString("\n")
			hear(func(w world) (world, todo) { return w.on(e) })
			changed()
		case "list":
			l := listing{asked: at}
			into(&l.all)
			fmt.Fprintf(&out, "\tlist\n")
			for _, c := range l.all { // the proxy of the recording
				if c.Labels[serviceLabel] == "proxy" {
					w.traces.mounts = []string{c.ID}
				}
			}
			hear(func(w world) (world, todo) { return w.list(l) })
			changed()
		case "inspect":
			a := answer{asked: at}
			var r api.InspectResponse
			into(&r)
			a.id, a.found = r.ID, r
			delete(due, a.id)
			hear(func(w world) (world, todo) { return w.learn(a) })
			changed()
		}
	}
	return out.String()
}
