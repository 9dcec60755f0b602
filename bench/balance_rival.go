package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A rival is a proxy with one of its policies.
type rival struct {
	Proxy, Policy string
	Default       bool // it is the proxy's default policy
}

func (r rival) String() string { return r.Proxy + ":" + r.Policy }

// nginxPolicies are those of nginx without a subscription, as an upstream block names them. round robin is
// what it does when nothing is named.
var nginxPolicies = []string{"round robin", "least_conn", "random", "random two least_conn",
	"hash $request_uri", "hash $request_uri consistent", "ip_hash"}

// hashKey is what policies that hash go by.
const hashKey = "$request_uri"

// rivals are all of them: Longshore's policies are those that its error message lists.
func rivals(ctx context.Context, longshore string) ([]rival, error) {
	policies, err := longshorePolicies(ctx, longshore)
	if err != nil {
		return nil, err
	}
	byDefault, err := longshoreDefault(ctx, longshore)
	if err != nil {
		return nil, err
	}
	var all []rival
	for _, p := range policies {
		r := rival{Proxy: "longshore", Policy: strings.Replace(p, "KEY", hashKey, 1), Default: p == byDefault}
		if r.Default {
			all = append([]rival{r}, all...)
		} else {
			all = append(all, r)
		}
	}
	for i, p := range nginxPolicies {
		all = append(all, rival{Proxy: "nginx", Policy: p, Default: i == 0})
	}
	return all, nil
}

// longshorePolicies reads the error message about a policy that there is not.
func longshorePolicies(ctx context.Context, longshore string) ([]string, error) {
	cmd := exec.CommandContext(ctx, longshore)
	cmd.Env = environ("LONGSHORE_BALANCER=none", "LONGSHORE_BACKENDS=127.0.0.1:1")
	msg, err := cmd.CombinedOutput()
	_, list, found := strings.Cut(strings.TrimSpace(string(msg)), "allowed are ")
	if err == nil || !found {
		return nil, fmt.Errorf("longshore with an unknown policy: %v, and no list of those there are:\n%s", err, msg)
	}
	return strings.Split(list, ", "), nil
}

// longshoreDefault asks a Longshore that was told no policy.
func longshoreDefault(ctx context.Context, longshore string) (policy string, err error) {
	d, err := launch(exec.CommandContext(ctx, longshore), longshoreEnv("127.0.0.1:1", ""))
	if err != nil {
		return "", err
	}
	defer d.stop()
	err = d.await(ctx, func() bool {
		s, ok := d.state()
		if ok = ok && len(s.Services) > 0; ok {
			policy = s.Services[0].Balancer
		}
		return ok
	})
	return policy, err
}

// longshoreEnv is for launch, which adds where to listen.
func longshoreEnv(backends, policy string) []string {
	env := environ("LONGSHORE_ACCESS_LOG=off", "LONGSHORE_LOG_LEVEL=error", "LONGSHORE_TRUSTED_PROXIES=127.0.0.1", "LONGSHORE_BACKENDS="+backends)
	if policy != "" {
		env = append(env, "LONGSHORE_BALANCER="+policy)
	}
	return env
}

// balanceConf has one worker, so that nginx's counts are as exact as they can be, and is nginx's default but
// for connections that are kept and the client's address, which is what ip_hash goes by.
const balanceConf = `worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/error.log crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;
  upstream replicas { %[2]s %[3]s keepalive 256; keepalive_requests 1000000; }
  server { listen %[4]s; location / { proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
`

func (r rival) nginxConf(dir, addr string, addrs []string) string {
	policy := r.Policy + ";"
	if r.Policy == nginxPolicies[0] {
		policy = ""
	}
	return fmt.Sprintf(balanceConf, dir, policy, "server "+strings.Join(addrs, "; server ")+";", addr)
}

// start runs the proxy in front of the replicas, and waits until it uses all that listen.
func (r rival) start(ctx context.Context, dir, longshore string, replicas []*backend) (*door, error) {
	var addrs []string
	listening := 0
	for _, rep := range replicas {
		addrs = append(addrs, rep.addr)
		if rep.server != nil {
			listening++
		}
	}
	if r.Proxy == "longshore" {
		d, err := launch(exec.CommandContext(ctx, longshore), longshoreEnv(strings.Join(addrs, ", "), r.Policy))
		if err != nil {
			return nil, err
		}
		return d, d.await(ctx, func() bool { s, ok := d.state(); return ok && s.up() == listening })
	}
	conf := filepath.Join(dir, "nginx.conf")
	d, err := launch(exec.CommandContext(ctx, "nginx", "-p", dir, "-c", conf), environ(), func(addr string) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(conf, []byte(r.nginxConf(dir, addr, addrs)), 0o644)
	})
	if err != nil {
		return nil, err
	}
	return d, d.await(ctx, d.accepts)
}

// A door is a proxy that runs.
type door struct {
	addr  string // where it listens
	admin string // where Longshore tells its state
	cmd   *exec.Cmd
	ports []int         // sockets that reserve them until it has ended
	ended chan struct{} // closed when it has
}

// launch starts a proxy on free ports. Before that it is told where.
func launch(cmd *exec.Cmd, env []string, before ...func(addr string) error) (*door, error) {
	d := &door{cmd: cmd, ended: make(chan struct{})}
	release := func() {
		for _, fd := range d.ports {
			syscall.Close(fd)
		}
	}
	for _, addr := range []*string{&d.addr, &d.admin} {
		fd, a, err := reserve()
		if err != nil {
			release()
			return nil, err
		}
		*addr = a
		d.ports = append(d.ports, fd)
	}
	for _, f := range before {
		if err := f(d.addr); err != nil {
			release()
			return nil, err
		}
	}
	cmd.Env, cmd.Stderr = append(env, "LONGSHORE_LISTEN="+d.addr, "LONGSHORE_ADMIN="+d.admin), os.Stderr
	// At the end of ctx too: nginx would leave its worker behind if it was killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		release()
		return nil, err
	}
	go func() {
		defer close(d.ended)
		cmd.Wait()
		release()
	}()
	return d, nil
}

// stop asks the proxy to end, and waits for that.
func (d *door) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.ended
}

// await waits until ok returns true. If it cannot, it stops the proxy.
func (d *door) await(ctx context.Context, ok func() bool) error {
	timeout := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
			continue
		case <-d.ended:
			return errors.New("it has ended")
		case <-timeout:
		case <-ctx.Done():
		}
		d.stop()
		return cmp.Or(ctx.Err(), errors.New("it is not ready after 10 s"))
	}
	return nil
}

// accepts reports whether its port takes connections.
func (d *door) accepts() bool {
	c, err := net.Dial("tcp", d.addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// A lsState is what the bench reads of /api/state.
type lsState struct {
	Services []struct {
		Balancer string
		Backends []struct{ State string }
	}
}

func (d *door) state() (s lsState, ok bool) {
	res, err := http.Get("http://" + d.admin + "/api/state")
	if err != nil {
		return s, false
	}
	defer res.Body.Close()
	return s, res.StatusCode == http.StatusOK && json.NewDecoder(res.Body).Decode(&s) == nil
}

func (s lsState) up() (n int) {
	for _, svc := range s.Services {
		for _, b := range svc.Backends {
			if b.State == "up" {
				n++
			}
		}
	}
	return n
}
