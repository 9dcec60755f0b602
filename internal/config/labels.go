package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"longshore/discovery"
)

// LabelPrefix stands before every label.
const LabelPrefix = "longshore."

// Labels is what the longshore.* labels of one container say. Labels win over the environment.
type Labels struct {
	Enable   Switch   `env:"ENABLE" help:"true: use this container; false: never. Any longshore label chooses the container when neither UPSTREAM nor LABEL is set"`
	Port     uint16   `env:"PORT" min:"1" allowed:"a port from 1 to 65535" help:"the container's port"`
	Host     Hosts    `env:"HOST" help:"hosts this service answers to: shop.example.com, *.example.com; a comma list. Default: every host"`
	Prefix   RootPath `env:"PATH" help:"path prefix, on segment borders. Default: /"`
	Network  string   `env:"NETWORK" help:"network to reach this container through"`
	Server   discovery.Server
	Settings discovery.Settings

	Any bool `env:"-"` // there is at least one known longshore.* label, and not enable=false
}

// DefaultLabels is what a container without labels says.
func DefaultLabels(defaults discovery.Settings) Labels {
	return Labels{Server: discovery.Server{Weight: 1}, Settings: defaults}
}

// ParseLabels reads a container's labels over defaults, which come from the environment.
// The error has one line for each wrong label; warnings name labels that nobody knows.
func ParseLabels(labels map[string]string, defaults discovery.Settings) (l Labels, warnings []string, err error) {
	l = DefaultLabels(defaults)
	vars := make(map[string]string)
	known := names(fields(reflect.TypeFor[Labels](), ""), "")
	for i, name := range known {
		known[i] = labelName(name)
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !strings.HasPrefix(name, LabelPrefix) {
			continue
		}
		if !slices.Contains(known, name) {
			warnings = append(warnings, fmt.Sprintf("unknown label %s, ignored; the nearest known one is %s", name, nearest(name, known)))
			continue
		}
		l.Any = true
		vars[variable(name)] = labels[name]
	}
	if err := overlay(&l, "", vars); err != nil {
		return l, warnings, inLabels(err, vars)
	}
	if l.Enable == Off {
		l.Any = false
	}
	return l, warnings, nil
}

// Routes lists where the labels say that requests for this container come from.
func (l Labels) Routes() []discovery.Route {
	path := string(l.Prefix)
	if path == "" {
		path = "/"
	}
	if len(l.Host) == 0 {
		return []discovery.Route{{Path: path}}
	}
	var rs []discovery.Route
	for _, h := range l.Host {
		rs = append(rs, discovery.Route{Host: h, Path: path})
	}
	return rs
}

// labelName turns HEALTH_PATH into longshore.health.path, MAX_FAILS into longshore.max_fails.
func labelName(variable string) string {
	name := strings.ToLower(variable)
	if rest, ok := strings.CutPrefix(name, "health_"); ok {
		name = "health." + rest
	}
	return LabelPrefix + name
}

func variable(label string) string {
	return strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(label, LabelPrefix), ".", "_"))
}

// inLabels gives each line of an overlay error the name that the user wrote: label longshore.port="x": ….
func inLabels(err error, vars map[string]string) error {
	var errs []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, rest, _ := strings.Cut(line, "=")
		if _, ok := vars[key]; ok {
			line = "label " + labelName(key) + "=" + rest
		}
		errs = append(errs, errors.New(line))
	}
	return errors.Join(errs...)
}

// Switch is on, off, or not said.
type Switch uint8

const (
	Unset Switch = iota
	On
	Off
)

// UnmarshalText accepts true and false, and what people write for them.
func (s *Switch) UnmarshalText(b []byte) error {
	switch strings.ToLower(string(b)) {
	case "true", "1", "yes", "on":
		*s = On
	case "false", "0", "no", "off":
		*s = Off
	default:
		return errors.New("want true or false")
	}
	return nil
}

// Hosts is a comma list of hosts.
type Hosts []string

// UnmarshalText parses hosts as a route does.
func (h *Hosts) UnmarshalText(b []byte) error {
	var all Hosts
	for host := range splitList(string(b)) {
		r, err := ParseRoute(host)
		if err != nil {
			return err
		}
		if r.Path != "/" || r.Host == "" {
			return fmt.Errorf("%q: want a host without a path", host)
		}
		all = append(all, r.Host)
	}
	*h = all
	return nil
}

// RootPath is a path that begins with "/".
type RootPath string

// UnmarshalText parses a path prefix as a route does.
func (p *RootPath) UnmarshalText(b []byte) error {
	r, err := ParseRoute(string(b))
	if err != nil {
		return err
	}
	if r.Host != "" {
		return errors.New("want a path that begins with /")
	}
	*p = RootPath(r.Path)
	return nil
}
