package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// stageLabel marks what belongs to a stage, and runLabel what belongs to a run of the bench.
const (
	stageLabel = "bench.stage"
	runLabel   = "bench.run"
)

// A troupe is what all stages of a run share.
type troupe struct {
	docker  *client.Client
	compose []string // the command
	dir     string
	images  *images
	stages  int
}

// assemble readies the engine and a directory. The caller calls dismiss.
func assemble(compose string) (*troupe, error) {
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	t := &troupe{docker: docker, dir: dir, compose: []string{"docker", "compose"},
		images: &images{dir: dir, prefix: fmt.Sprintf("bench-%d", os.Getpid()), tags: make(map[string]string)}}
	if compose == "v1" {
		t.compose = []string{"docker-compose"}
	}
	return t, nil
}

// dismiss removes all that is left of the run.
func (t *troupe) dismiss() {
	t.remove(fmt.Sprintf("%s=%d", runLabel, os.Getpid()))
	t.images.remove()
	os.RemoveAll(t.dir)
}

// remove removes the containers and networks with a label.
func (t *troupe) remove(label string) {
	ctx := context.Background() // also after Ctrl-C
	which := filters.NewArgs(filters.Arg("label", label))
	containers, _ := t.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: which})
	args := []string{"rm", "-f", "-v"}
	for _, c := range containers {
		args = append(args, c.ID)
	}
	if len(containers) > 0 {
		command(ctx, "docker", args...).Run()
	}
	out, _ := command(ctx, "docker", "network", "ls", "-q", "--filter", "label="+label).Output()
	for _, id := range strings.Fields(string(out)) {
		for range 20 { // the engine forgets endpoints a moment after their containers
			if command(ctx, "docker", "network", "rm", id).Run() == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// command is a command out of reach of the terminal's Ctrl-C: it ends with ctx, and what cleans up
// is not ended at all.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// A stage is a compose project with one contender in front of the service web, for one scenario.
type stage struct {
	*troupe
	sc    scenario
	who   contender
	name  string // of the project
	dir   string
	addr  string // of the proxy
	admin string // empty: none
	relay *relay // nil: the real socket
	watch *watcher
	quiet context.CancelFunc // ends watch
	note  string             // what the audience should know
}

// raise brings a stage up, with the scenario's replicas in use as far as the contender can use them.
func (t *troupe) raise(ctx context.Context, sc scenario, who contender) (*stage, error) {
	t.stages++
	st := &stage{troupe: t, sc: sc, who: who, name: fmt.Sprintf("bench%dx%d", os.Getpid(), t.stages)}
	st.dir = filepath.Join(t.dir, st.name)
	watching, quiet := context.WithCancel(ctx)
	st.quiet = quiet
	if err := st.build(ctx, watching); err != nil {
		logs := st.logs(2000)
		st.close()
		return nil, fmt.Errorf("%s in front of %s: %w\n%s", who.Name, sc.Name, err, logs)
	}
	return st, nil
}

func (st *stage) build(ctx, watching context.Context) error {
	if err := os.MkdirAll(filepath.Join(st.dir, "executed"), 0o755); err != nil {
		return err
	}
	socket := "/var/run/docker.sock"
	if path, ok := strings.CutPrefix(st.docker.DaemonHost(), "unix://"); ok {
		socket = path
	}
	if st.sc.Cut {
		var err error
		cuttable := filepath.Join(st.dir, "docker.sock")
		if st.relay, err = relayTo(socket, cuttable); err != nil {
			return err
		}
		socket = cuttable
	}
	if err := st.write(ctx, socket); err != nil {
		return err
	}
	st.watch = watch(watching, st.docker, stageLabel+"="+st.name)
	if err := st.run(ctx, "up", "-d", "--scale", "web=1", "proxy", "web"); err != nil {
		return err
	}
	proxy, err := st.containerOf(ctx, "proxy")
	if err != nil {
		return err
	}
	for _, p := range proxy.Ports {
		switch p.PrivatePort {
		case 80:
			st.addr = fmt.Sprintf("127.0.0.1:%d", p.PublicPort)
		case 9180:
			st.admin = fmt.Sprintf("http://127.0.0.1:%d", p.PublicPort)
		}
	}
	if n := st.warm(ctx, 1, 20*time.Second); n < 1 {
		return fmt.Errorf("no answer")
	}
	if st.sc.Replicas > 1 {
		if err := st.scale(ctx, st.sc.Replicas); err != nil {
			return err
		}
		patience := 15 * time.Second
		if st.who.Blind {
			patience = time.Second
		}
		if n := st.warm(ctx, st.sc.Replicas, patience); n < st.sc.Replicas {
			st.note = fmt.Sprintf("%d of %d replicas were in use at the start", n, st.sc.Replicas)
		}
	}
	return ctx.Err()
}

// write makes the compose file. JSON is YAML.
func (st *stage) write(ctx context.Context, socket string) error {
	proxyImage, err := st.images.tag(ctx, st.who.Program)
	if err != nil {
		return err
	}
	appImage, err := st.images.tag(ctx, "testapp")
	if err != nil {
		return err
	}
	type object = map[string]any
	labels := map[string]string{stageLabel: st.name, runLabel: fmt.Sprint(os.Getpid())}
	proxy := object{"image": proxyImage, "labels": labels, "ports": []string{"127.0.0.1::80"}, "depends_on": []string{"web"}}
	var volumes []string
	if st.who.Admin {
		proxy["ports"] = []string{"127.0.0.1::80", "127.0.0.1::9180"}
	}
	if st.who.Socket {
		volumes = append(volumes, socket+":/var/run/docker.sock:ro")
	}
	if st.who.Conf != "" {
		conf := filepath.Join(st.dir, "proxy.conf")
		if err := os.WriteFile(conf, []byte(st.who.Conf), 0o644); err != nil {
			return err
		}
		volumes = append(volumes, conf+":/etc/proxy.conf:ro")
	}
	if len(st.who.Env) > 0 {
		proxy["environment"] = st.who.Env
	}
	if len(volumes) > 0 {
		proxy["volumes"] = volumes
	}
	if len(st.who.Command) > 0 {
		proxy["entrypoint"] = st.who.Command
	}
	app := object{"EXECUTED": "/executed"}
	for k, v := range st.sc.App {
		app[k] = v
	}
	web := object{"image": appImage, "labels": labels, "environment": app, "volumes": []string{filepath.Join(st.dir, "executed") + ":/executed"}}
	network := object{"labels": labels}
	if st.sc.Subnet {
		network["ipam"] = object{"config": []object{{"subnet": fmt.Sprintf("10.%d.%d.0/24", 100+rand.IntN(100), rand.IntN(256))}}}
	}
	file, err := json.MarshalIndent(object{
		"services": object{"proxy": proxy, "web": web},
		"networks": object{"default": network},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(st.dir, "docker-compose.yml"), file, 0o644)
}

// run runs a compose command.
func (st *stage) run(ctx context.Context, args ...string) error {
	all := append(append([]string{}, st.compose...), "-p", st.name)
	all = append(all, args...)
	cmd := command(ctx, all[0], all[1:]...)
	cmd.Dir = st.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(all, " "), err, out)
	}
	return nil
}

func (st *stage) dockerRun(ctx context.Context, args ...string) error {
	if out, err := command(ctx, "docker", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (st *stage) scale(ctx context.Context, n int) error {
	return st.run(ctx, "up", "-d", "--no-recreate", "--no-deps", "--scale", fmt.Sprintf("web=%d", n), "web")
}

// warm asks until n replicas have answered, and returns how many have when time is up.
func (st *stage) warm(ctx context.Context, n int, patience time.Duration) int {
	seen := make(map[string]bool)
	for deadline := time.Now().Add(patience); len(seen) < n && time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if _, host, cause := request(st.addr, http.MethodGet, "/", "warm", time.Now().Add(time.Second)); cause == "" {
			seen[host] = true
		}
	}
	return len(seen)
}

// verbs are what steps can do. A number is that of a container or of replicas.
var verbs = map[string]func(ctx context.Context, st *stage, n int) error{
	"scale": func(ctx context.Context, st *stage, n int) error { return st.scale(ctx, n) },
	"recreate": func(ctx context.Context, st *stage, n int) error {
		return st.run(ctx, "up", "-d", "--force-recreate", "--no-deps", "--scale", fmt.Sprintf("web=%d", n), "web")
	},
	"kill":    to("kill"),
	"stop":    to("stop"),
	"start":   to("start"),
	"restart": to("restart"),
	"pause":   to("pause"),
	"unpause": to("unpause"),
	"nothing": func(context.Context, *stage, int) error { return nil },
	// One more replica, with the labels and the name that compose would give it.
	"crash-loop": func(ctx context.Context, st *stage, _ int) error {
		tag, err := st.images.tag(ctx, "testapp")
		if err != nil {
			return err
		}
		return st.dockerRun(ctx, "run", "-d", "--name", st.name+"-flap", "--restart", "always", "--network", st.name+"_default", "--network-alias", "web",
			"--label", stageLabel+"="+st.name, "--label", fmt.Sprintf("%s=%d", runLabel, os.Getpid()),
			"--label", "com.docker.compose.project="+st.name, "--label", serviceLabel+"=web", "--label", numberLabel+"="+flapper, "--label", "com.docker.compose.oneoff=False",
			"-e", "EXIT_AFTER=300ms", tag)
	},
	// A container of no service takes the address that container n had.
	"squat": func(ctx context.Context, st *stage, n int) error {
		host, err := st.hostOf(ctx, n)
		if err != nil {
			return err
		}
		st.watch.mu.Lock()
		addr := st.watch.replicas[host].Addrs[0]
		st.watch.mu.Unlock()
		tag, err := st.images.tag(ctx, "testapp")
		if err != nil {
			return err
		}
		return st.dockerRun(ctx, "run", "-d", "--name", st.name+"-squatter", "--network", st.name+"_default", "--ip", addr,
			"--label", stageLabel+"="+st.name, "--label", fmt.Sprintf("%s=%d", runLabel, os.Getpid()), tag)
	},
}

// to makes a verb of a docker command for container n.
func to(what string) func(context.Context, *stage, int) error {
	return func(ctx context.Context, st *stage, n int) error {
		host, err := st.hostOf(ctx, n)
		if err != nil {
			return err
		}
		return st.dockerRun(ctx, what, host)
	}
}

// hostOf returns the hostname of container n of the service.
func (st *stage) hostOf(ctx context.Context, n int) (string, error) {
	all, err := containers(ctx, st.docker, stageLabel+"="+st.name)
	if err != nil {
		return "", err
	}
	c, ok := all[fmt.Sprint(n)]
	if !ok {
		return "", fmt.Errorf("there is no container %d", n)
	}
	return c.ID[:12], nil
}

func (st *stage) containerOf(ctx context.Context, service string) (container.Summary, error) {
	list, err := st.docker.ContainerList(ctx, container.ListOptions{All: true,
		Filters: filters.NewArgs(filters.Arg("label", stageLabel+"="+st.name), filters.Arg("label", serviceLabel+"="+service))})
	if err != nil {
		return container.Summary{}, err
	}
	if len(list) == 0 {
		return container.Summary{}, fmt.Errorf("%s: no container", service)
	}
	return list[0], nil
}

// logs returns the end of what the proxy wrote.
func (st *stage) logs(size int) string {
	proxy, err := st.containerOf(context.Background(), "proxy")
	if err != nil {
		return ""
	}
	out, _ := command(context.Background(), "docker", "logs", proxy.ID).CombinedOutput()
	return string(out[max(0, len(out)-size):])
}

// close removes the stage.
func (st *stage) close() {
	st.quiet()
	st.remove(stageLabel + "=" + st.name)
	if st.relay != nil {
		st.relay.close()
	}
	os.RemoveAll(st.dir)
}

// A take is all that was recorded of one contender in one scenario.
type take struct {
	sc       scenario
	who      contender
	run      int
	note     string
	begin    time.Time
	length   time.Duration // of the load
	shots    []shot
	steps    []done
	events   []event
	replicas []*replica
	executed map[string][]string // by request ID: the hosts that executed it
	via      map[int]string      // by shot: the addresses a POST was sent to, where the proxy says so
	applied  *appliedLog
	state    json.RawMessage
	before   map[string]float64 // Longshore's counters when the load began
	after    map[string]float64 // and at the end
}

// A done is a step with its times since the load's begin.
type done struct {
	Step       string
	Begin, End time.Duration
	Err        string
}

// play runs the scenario under load.
func (st *stage) play(ctx context.Context, rate int, end time.Duration, progress func(*load)) (*take, error) {
	before := make(map[string]float64)
	if st.admin != "" {
		var err error
		if before, err = counters(st.admin); err != nil {
			return nil, err
		}
	}
	l := &load{addr: st.addr, begin: time.Now().Add(50 * time.Millisecond), streams: st.sc.streams(rate)}
	tk := &take{sc: st.sc, who: st.who, note: st.note, begin: l.begin, before: before}
	stop := make(chan struct{})
	var around sync.WaitGroup
	if st.relay != nil {
		around.Go(func() { st.relay.cutEvery(2*time.Second, stop) })
	}
	around.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				progress(l)
			case <-stop:
				return
			}
		}
	})
	around.Go(func() {
		defer close(stop)
		tk.steps = st.act(ctx, l.begin)
		sleep(ctx, end+st.sc.listenAfter())
		tk.length = time.Since(l.begin)
	})
	tk.shots = l.run(ctx, stop)
	around.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, s := range tk.steps {
		if s.Err != "" {
			return nil, fmt.Errorf("%s: %s", s.Step, s.Err)
		}
	}
	tk.events, tk.replicas = st.watch.all()
	return tk, st.collect(ctx, tk)
}

// act does the steps, one after another.
func (st *stage) act(ctx context.Context, begin time.Time) (all []done) {
	for _, s := range st.sc.Steps {
		sleep(ctx, time.Duration(s.After*float64(time.Second)))
		d := done{Step: s.String(), Begin: time.Since(begin)}
		if err := verbs[s.Do](ctx, st, s.N); err != nil {
			d.Err = err.Error()
		}
		d.End = time.Since(begin)
		all = append(all, d)
	}
	return all
}

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// collect reads what the apps and the proxy wrote down.
func (st *stage) collect(ctx context.Context, tk *take) error {
	tk.executed = make(map[string][]string)
	files, err := os.ReadDir(filepath.Join(st.dir, "executed"))
	if err != nil {
		return err
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(st.dir, "executed", f.Name()))
		if err != nil {
			return err
		}
		for id := range strings.FieldsSeq(string(content)) {
			tk.executed[id] = append(tk.executed[id], f.Name())
		}
	}
	if st.admin != "" {
		state, err := fetch(st.admin + "/api/state")
		if err != nil {
			return err
		}
		tk.state = json.RawMessage(state)
		if tk.after, err = counters(st.admin); err != nil {
			return err
		}
	}
	time.Sleep(250 * time.Millisecond) // Longshore's access log is buffered
	proxy, err := st.containerOf(ctx, "proxy")
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	cmd := command(ctx, "docker", "logs", proxy.ID)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	tk.applied = new(appliedLog)
	tk.applied.read(bufio.NewScanner(&stderr))
	tk.via = viaOf(stdout.Bytes())
	return nil
}

// viaOf reads from Longshore's access log which addresses each numbered request was sent to.
func viaOf(log []byte) map[int]string {
	via := make(map[int]string)
	for line := range bytes.Lines(log) {
		var r struct{ URI, Upstream string }
		var id int
		if json.Unmarshal(line, &r) != nil {
			continue
		}
		if _, err := fmt.Sscanf(r.URI, "/?%d", &id); err == nil {
			via[id] = r.Upstream
		}
	}
	return via
}

// counters reads Longshore's metrics: by name and labels.
func counters(admin string) (map[string]float64, error) {
	metrics, err := fetch(admin + "/metrics")
	if err != nil {
		return nil, err
	}
	all := make(map[string]float64)
	for line := range strings.Lines(metrics) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
				all[line[:i]] = v
			}
		}
	}
	return all, nil
}

// fetch gets a small text.
func fetch(url string) (string, error) {
	res, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}
