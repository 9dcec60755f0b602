// Record plays a scenario on a real engine and writes what the engine says, for TestRecorded.
// record.sh runs it with both composes.
//
//	record SCENARIO PROJECT >NAME.jsonl
//
// A scenario has one step per line, "name: shell command". Each step's events are followed by a list
// and an inspect of each container of the project. What the tests do not read is left out:
// environment, paths, the output of health checks.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

type object = map[string]any

var engine = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
	return net.Dial("unix", "/var/run/docker.sock")
}}}

var out sync.Mutex // guards stdout

func say(kind string, body any) {
	out.Lock()
	defer out.Unlock()
	b, err := json.Marshal(object{"kind": kind, "at": time.Now().UnixNano(), "body": body})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b)
}

func get(path string, into any) {
	resp, err := engine.Get("http://docker/v1.41" + path)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		log.Fatal(err)
	}
}

func main() {
	scenario, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	project := os.Args[2]
	filters := `{"type":["container","network"],"event":["create","start","kill","die","oom","pause","unpause","rename","update","destroy","health_status","connect","disconnect"]}`
	stream, err := engine.Get("http://docker/v1.41/events?filters=" + url.QueryEscape(filters))
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		d := json.NewDecoder(stream.Body)
		for {
			var e object
			if err := d.Decode(&e); err != nil {
				return
			}
			if a, ok := e["Actor"].(object); ok {
				a["Attributes"] = labels(a["Attributes"])
			}
			for _, old := range []string{"status", "id", "from", "scope"} {
				delete(e, old)
			}
			say("event", e)
		}
	}()
	lines := bufio.NewScanner(strings.NewReader(string(scenario)))
	for lines.Scan() {
		name, command, ok := strings.Cut(lines.Text(), ": ")
		if !ok {
			continue
		}
		say("step", name)
		cmd := exec.Command("sh", "-c", command)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			log.Fatalf("%s: %v", command, err)
		}
		time.Sleep(300 * time.Millisecond) // until its last event has come
		var all []object
		get("/containers/json?all=1&filters="+url.QueryEscape(`{"label":["com.docker.compose.project=`+project+`"]}`), &all)
		for _, c := range all {
			c["Labels"] = labels(c["Labels"])
			pick(c, "Id", "Names", "Labels", "State", "Status", "Created", "NetworkSettings", "HostConfig")
		}
		say("list", all)
		for _, c := range all {
			var in object
			get("/containers/"+c["Id"].(string)+"/json", &in)
			pick(in, "Id", "Created", "Name", "State", "HostConfig", "Config", "NetworkSettings")
			if h, ok := in["State"].(object)["Health"].(object); ok {
				delete(h, "Log")
			}
			pick(in["HostConfig"].(object), "NetworkMode")
			pick(in["NetworkSettings"].(object), "Ports", "Networks")
			config := in["Config"].(object)
			pick(config, "Env", "ExposedPorts", "Labels", "StopSignal", "StopTimeout")
			config["Labels"] = labels(config["Labels"])
			var env []any
			for _, v := range config["Env"].([]any) {
				if strings.HasPrefix(v.(string), "VIRTUAL_PORT=") {
					env = append(env, v)
				}
			}
			config["Env"] = env
			say("inspect", in)
		}
	}
}

func pick(o object, keys ...string) {
	maps.DeleteFunc(o, func(k string, _ any) bool {
		for _, key := range keys {
			if k == key {
				return false
			}
		}
		return true
	})
}

// labels leaves out what compose says of the machine.
func labels(v any) any {
	o, ok := v.(object)
	if !ok {
		return v
	}
	for k := range o {
		switch strings.TrimPrefix(k, "com.docker.compose.") {
		case "project", "service", "container-number", "oneoff", "replace":
		case "project.working_dir", "project.config_files", "config-hash", "image", "version", "depends_on", "project.environment_file":
			delete(o, k)
		}
	}
	delete(o, "image")
	return o
}
