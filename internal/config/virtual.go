package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"longshore/discovery"
)

// Virtual is what a container's environment says in the words of nginx-proxy.
type Virtual struct {
	Sites    []Site
	Internal bool // NETWORK_ACCESS=internal
}

// A Site is a virtual host, or a path of one.
type Site struct {
	Route discovery.Route
	Port  uint16 // 0: not said
}

// virtualVars are all that is looked at of a container's environment.
var virtualVars = []string{
	"VIRTUAL_HOST", "VIRTUAL_HOST_MULTIPORTS", "VIRTUAL_PORT", "VIRTUAL_PATH", "VIRTUAL_DEST", "VIRTUAL_PROTO", "NETWORK_ACCESS",
}

// ParseVirtual reads VIRTUAL_HOST and its like from a container's environment ("KEY=value" strings). Without
// one of the first two there are no Sites, and nothing is wrong. The error has one line.
func ParseVirtual(environ []string) (v Virtual, err error) {
	vars := make(map[string]string)
	for _, kv := range environ {
		if k, value, _ := strings.Cut(kv, "="); slices.Contains(virtualVars, k) {
			vars[k] = strings.TrimSpace(value)
		}
	}
	wrong := func(name string, err error) (Virtual, error) {
		return Virtual{}, errors.New(name + "=" + Quote(vars[name]) + ": " + Clip(without(err.Error(), vars[name])))
	}
	v.Internal = vars["NETWORK_ACCESS"] == "internal"
	if all := vars["VIRTUAL_HOST_MULTIPORTS"]; all != "" {
		if v.Sites, err = parseMultiports(all); err != nil {
			return wrong("VIRTUAL_HOST_MULTIPORTS", err)
		}
		return v, nil
	}
	if vars["VIRTUAL_HOST"] == "" {
		return Virtual{}, nil
	}
	var hosts Hosts
	if err := hosts.UnmarshalText([]byte(vars["VIRTUAL_HOST"])); err != nil {
		return wrong("VIRTUAL_HOST", err)
	}
	s := site{Port: vars["VIRTUAL_PORT"], Dest: vars["VIRTUAL_DEST"], Proto: vars["VIRTUAL_PROTO"]}
	if v.Sites, err = s.at(hosts, vars["VIRTUAL_PATH"]); err != nil {
		part := "VIRTUAL_" + strings.ToUpper(err.(*siteError).part)
		return wrong(part, err.(*siteError).error)
	}
	return v, nil
}

// A site is what can be said of a path.
type site struct {
	Port  string `yaml:"port"`
	Dest  string `yaml:"dest"`
	Proto string `yaml:"proto"`
}

// A siteError says what of a site is wrong: its path, port, dest or proto.
type siteError struct {
	part string
	error
}

// at makes the Sites of some hosts with one path, "/" if it is empty.
func (s site) at(hosts Hosts, path string) (sites []Site, err error) {
	if s.Proto != "" && s.Proto != "http" {
		return nil, &siteError{"proto", errors.New("not built yet: want http")}
	}
	var rule PathRule
	if err := rule.UnmarshalText([]byte(cmp.Or(path, "/"))); err != nil {
		return nil, &siteError{"path", err}
	}
	var port uint16
	if s.Port != "" {
		if port, err = parsePort(s.Port); err != nil {
			return nil, &siteError{"port", errors.New("want a port from 1 to 65535")}
		}
	}
	dest := ""
	if s.Dest != "" {
		if dest, err = parseDest(s.Dest); err != nil {
			return nil, &siteError{"dest", err}
		}
	}
	for _, r := range routes(hosts, rule, dest) {
		sites = append(sites, Site{r, port})
	}
	return sites, nil
}

// parseMultiports parses YAML, or JSON: host, then path, then port, dest and proto, all but the host optional.
func parseMultiports(text string) (all []Site, err error) {
	var hosts map[string]map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &hosts); err != nil {
		if errors.As(err, new(*yaml.TypeError)) {
			return nil, errors.New("want YAML: hosts, below each of them paths, and below those port, dest and proto")
		}
		why, _, _ := strings.Cut(err.Error(), "\n")
		return nil, errors.New(why)
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		var host Hosts
		if err := host.UnmarshalText([]byte(name)); err != nil {
			return nil, err
		}
		if len(host) != 1 {
			return nil, fmt.Errorf("host %q: want one host", name)
		}
		paths := hosts[name]
		maps.DeleteFunc(paths, func(p string, _ yaml.Node) bool { return p == "" || strings.IndexByte("/~=^", p[0]) < 0 }) // external_https_port and its like
		if len(paths) == 0 {
			paths = map[string]yaml.Node{"/": {}}
		}
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			var s site
			if node := paths[path]; !node.IsZero() {
				if err := node.Decode(&s); err != nil {
					return nil, fmt.Errorf("%s%s: want port, dest and proto", name, path)
				}
			}
			sites, err := s.at(host, path)
			if err != nil {
				return nil, fmt.Errorf("%s%s: %s %w", name, path, err.(*siteError).part, err.(*siteError).error)
			}
			for _, site := range sites {
				site.Route = ranked(site.Route, len(all))
				all = append(all, site)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("want a virtual host")
	}
	return all, nil
}

// parseDefaultHost parses DEFAULT_HOST, the one variable of nginx-proxy's own container that is read.
func parseDefaultHost(s string) (string, error) {
	var hosts Hosts
	if err := hosts.UnmarshalText([]byte(s)); err != nil || len(hosts) != 1 {
		return "", fmt.Errorf("DEFAULT_HOST=%s: want one host", Quote(s))
	}
	return hosts[0], nil
}
