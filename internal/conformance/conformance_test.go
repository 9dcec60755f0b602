package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"longshore/internal/config"
	"longshore/internal/docs"
)

// rows: nginx's words, ours, and the tests, as package.TestName.
var rows = []struct{ nginx, ours, tests string }{
	{"round robin (no directive)", "`LONGSHORE_BALANCER=round_robin`", "balancer.TestRoundRobinIsSmooth, longshore.TestNginxWeights"},
	{"`least_conn`", "the default", "balancer.TestLeastConnPicksTheLeast, longshore.TestNginxLeastConn"},
	{"`random`", "the same word", "balancer.TestShareByWeight"},
	{"`random two least_conn`", "the same words", "balancer.TestRandomTwoLevelsTheLoad"},
	{"`random two least_time=header`, `last_byte`", "the same words", "balancer.TestShareByWeight"},
	{"`least_time header`, `last_byte`", "the same words", "balancer.TestLeastTime, balancer.TestLeastTimeFresh, proxy.TestLeastTime"},
	{"`hash KEY`, `hash KEY consistent`", "the same words", "balancer.TestHashStays, balancer.TestHashBound, proxy.TestHashKey, longshore.TestNginxHash"},
	{"`ip_hash`", "the same word", "balancer.TestHashBound, proxy.TestHashKey, longshore.TestNginxHash"},
	{"HAProxy's `balance first`", "`LONGSHORE_BALANCER=first`", "balancer.TestLimit"},
	{"`sticky cookie NAME …`", "`LONGSHORE_STICKY=cookie NAME …`, label `longshore.sticky`", "discovery.TestSticky, proxy.TestSticky"},
	{"`sticky route $v …`", "`LONGSHORE_STICKY=route $v …`", "discovery.TestSticky, proxy.TestSticky"},
	{"`sticky learn …`", "`LONGSHORE_STICKY=learn …`", "discovery.TestSticky, proxy.TestSticky, proxy.TestLearnt"},
	{"`server … weight=5`", "label `longshore.weight`, or in `LONGSHORE_BACKENDS`", "balancer.TestShareByWeight, longshore.TestNginxWeights"},
	{"`server … max_conns=100`", "label `longshore.max_conns`", "proxy.TestMaxConns, longshore.TestNginxMaxConns"},
	{"`server … max_fails=1 fail_timeout=10s`", "labels `longshore.max_fails`, `longshore.fail_timeout`, or variables for all", "health.TestMachine, longshore.TestNginxMaxFails"},
	{"`server … slow_start=30s`", "label `longshore.slow_start`", "proxy.TestSlowStart"},
	{"`server … backup`", "label `longshore.backup`", "proxy.TestMaxConns, longshore.TestNginxBackup"},
	{"`server … down`", "label `longshore.down`", "config.TestBackends"},
	{"`server … drain`", "label `longshore.drain`", "proxy.TestSticky"},
	{"`server … route=a`", "label `longshore.route`", "proxy.TestSticky"},
	{"`server … resolve`, `service=`; `resolver`; `zone`", "not needed: containers are followed by events", "longshore.TestEngineStory"},
	{"`upstream` with several `server`", "`web1:5000\\|web2:5000` in `LONGSHORE_UPSTREAM`; label `longshore.service`", "docker.TestState, longshore.TestEngineSeveralServices"},
	{"`queue 100 timeout=10s`", "`LONGSHORE_QUEUE`, `LONGSHORE_QUEUE_TIMEOUT`", "proxy.TestPark, proxy.TestParkOrder, proxy.TestParkLimits"},
	{"`keepalive`, `keepalive_timeout`", "`LONGSHORE_KEEPALIVE`, `LONGSHORE_KEEPALIVE_TIMEOUT`", "proxy.TestManyIdle"},
	{"`health_check interval= jitter= fails= passes= port=`", "labels `longshore.health.interval`, `longshore.health.jitter`, `longshore.health.fall`, `longshore.health.rise`, `longshore.health.port`", "health.TestMachine, longshore.TestEngineHealth"},
	{"`health_check match=`, a `match` block", "label `longshore.health.match`", "health.TestMatch, health.TestMatchRefuses"},
	{"`health_check mandatory`", "label `longshore.health.mandatory`", "health.TestMachine"},
	{"`health_check type=grpc grpc_service= grpc_status=`", "labels `longshore.health.type`, `longshore.health.grpc_service`, `longshore.health.grpc_status`", "health.TestProbeGRPC"},
	{"HAProxy's `http-check disable-on-404`", "label `longshore.health.disable_on_404`", "proxy.TestDrainsItself"},
	{"`server_name` exact, `*.x`, `x.*`, `~regex`", "label `longshore.host`, or before the target in `LONGSHORE_UPSTREAM`", "proxy.TestLookup, longshore.TestNginxRoutes"},
	{"`location /x`, `^~ /x`, `= /x`, `~ regex`, `~* regex`", "label `longshore.path`, or before the target in `LONGSHORE_UPSTREAM`", "proxy.TestLookup, longshore.TestNginxRoutes, longshore.TestNginxDeviations"},
	{"`proxy_pass http://x/v2/`; `proxy_redirect`, `proxy_cookie_path`", "the same in `LONGSHORE_UPSTREAM`; labels `longshore.strip`, `longshore.rewrite`", "proxy.TestRewriteTarget, proxy.TestStrip, proxy.TestMendCookie, longshore.TestNginxRoutes"},
	{"`underscores_in_headers on`", "`LONGSHORE_UNDERSCORES_IN_HEADERS=on`", "proxy.TestClientsClaims"},
	{"`set_real_ip_from`, `real_ip_recursive on`", "`LONGSHORE_TRUSTED_PROXIES`", "proxy.TestClient, proxy.TestOrigin"},
	{"nginx-proxy's `VIRTUAL_HOST` and its like", "unchanged", "config.TestVirtual, docker.TestVirtualHosts, longshore.TestEngineVirtualHost"},
}

// TestTable keeps the table of docs/from-nginx.md in step, and every test, variable and label in it real.
func TestTable(t *testing.T) {
	known := tests(t)
	settings := config.Names()
	var b strings.Builder
	b.WriteString("| nginx | Longshore | shown by |\n|---|---|---|\n")
	for _, r := range rows {
		for name := range strings.SplitSeq(r.tests, ", ") {
			if !known[name] {
				t.Errorf("%s: there is no test %s", r.nginx, name)
			}
		}
		for word := range strings.FieldsFuncSeq(r.ours, func(c rune) bool { return strings.ContainsRune("` ,;=", c) }) {
			if (strings.HasPrefix(word, config.Prefix) || strings.HasPrefix(word, config.LabelPrefix)) && !settings[word] {
				t.Errorf("%s: there is no setting %s", r.nginx, word)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.nginx, r.ours, "`"+strings.ReplaceAll(r.tests, ", ", "` `")+"`")
	}
	docs.Check(t, "from-nginx.md", "conformance", b.String())
}

// tests lists the test functions of this module, as package.TestName; cmd/longshore is longshore.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				all[filepath.Base(filepath.Dir(path))+"."+fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
