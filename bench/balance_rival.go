package main

import (
	"bytes"
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

// Where the proxy of a run listens.
const (
	proxyAddr = "127.0.0.1:19041"
	stateAddr = "127.0.0.1:19042" // /api/state of Longshore
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
func longshoreDefault(ctx context.Context, longshore string) (string, error) {
	stop, err := run(exec.CommandContext(ctx, longshore), longshoreEnv("127.0.0.1:1", ""))
	if err != nil {
		return "", err
	}
	defer stop()
	for {
		if s, ok := stateOf(); ok && len(s.Services) > 0 {
			return s.Services[0].Balancer, nil
		}
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
}

func longshoreEnv(backends, policy string) []string {
	env := environ("LONGSHORE_LISTEN="+proxyAddr, "LONGSHORE_ADMIN="+stateAddr, "LONGSHORE_ACCESS_LOG=off", "LONGSHORE_LOG_LEVEL=error",
		"LONGSHORE_TRUSTED_PROXIES=127.0.0.1", "LONGSHORE_BACKENDS="+backends)
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

func (r rival) nginxConf(dir string, addrs []string) string {
	policy := r.Policy + ";"
	if r.Policy == nginxPolicies[0] {
		policy = ""
	}
	return fmt.Sprintf(balanceConf, dir, policy, "server "+strings.Join(addrs, "; server ")+";", proxyAddr)
}

// start runs the proxy in front of the replicas, and waits until it uses all that listen.
func (r rival) start(ctx context.Context, dir, longshore string, replicas []*backend) (stop func(), err error) {
	var addrs []string
	listening := 0
	for _, rep := range replicas {
		addrs = append(addrs, rep.addr)
		if rep.server != nil {
			listening++
		}
	}
	ready := func() bool { s, ok := stateOf(); return ok && s.up() == listening }
	cmd, env := exec.CommandContext(ctx, longshore), longshoreEnv(strings.Join(addrs, ", "), r.Policy)
	if r.Proxy == "nginx" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		conf := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(conf, []byte(r.nginxConf(dir, addrs)), 0o644); err != nil {
			return nil, err
		}
		ready = accepts
		cmd, env = exec.CommandContext(ctx, "nginx", "-p", dir, "-c", conf), environ()
	}
	if stop, err = run(cmd, env); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); !ready(); {
		if err := pause(ctx); err != nil || time.Now().After(deadline) {
			stop()
			return nil, cmp.Or(err, errors.New("not ready after 10 s"))
		}
	}
	return stop, nil
}

// run starts a proxy. stop asks it to end, and waits for that; so does the end of ctx: nginx would leave
// its worker behind if it was killed.
func run(cmd *exec.Cmd, env []string) (stop func(), err error) {
	var msg bytes.Buffer
	cmd.Env, cmd.Stderr = env, &msg
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if accepts() {
		return nil, fmt.Errorf("somebody else listens on %s", proxyAddr)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if msg.Len() > 0 {
			fmt.Fprintf(os.Stderr, "%s", msg.Bytes())
		}
	}, nil
}

// accepts reports whether the proxy's port takes connections.
func accepts() bool {
	c, err := net.Dial("tcp", proxyAddr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
	return ctx.Err()
}

// A lsState is what the bench reads of /api/state.
type lsState struct {
	Services []struct {
		Balancer string
		Backends []struct{ State string }
	}
}

func stateOf() (s lsState, ok bool) {
	res, err := http.Get("http://" + stateAddr + "/api/state")
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
