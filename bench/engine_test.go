package main

import (
	"testing"
	"time"

	"longshore/internal/dockertest"
)

// TestEngineDynamic plays a short scenario in front of Longshore.
func TestEngineDynamic(t *testing.T) {
	dockertest.Engine(t)
	compose := "v2"
	if dockertest.Composes(t)[0][0] == "docker-compose" {
		compose = "v1"
	}
	troupe, err := assemble(compose)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(troupe.dismiss)
	kill, err := pick("scenario", scenarios, func(s scenario) string { return s.Name }, "kill")
	if err != nil {
		t.Fatal(err)
	}
	d := &dynamicRun{troupe: troupe, rate: 100}
	o, err := d.one(t.Context(), kill[0].shorter(), contenders[0], 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range o.Verdicts {
		if v.Fatal && !v.Met {
			t.Errorf("%s: %s", v.Target, v.Got)
		}
	}
	if o.Requests < 200 || len(o.Events) < 2 || len(o.Replicas) != 2 || len(o.Applied) == 0 {
		t.Errorf("%d requests, %d events, %d replicas, applied %v: want about 220, kill and die, 2, and times",
			o.Requests, len(o.Events), len(o.Replicas), o.Applied)
	}
}
