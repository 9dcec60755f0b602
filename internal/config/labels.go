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
	Host     Hosts    `env:"HOST" help:"hosts this service answers to: shop.example.com, *.example.com, www.*, ~regular expression; a comma list. Default: every host"`
	Location PathRule `env:"PATH" help:"path prefix, on segment borders; =/exact; ~regular expression, ~* in any case. Default: /"`
	Strip    Switch   `env:"STRIP" help:"true: the path prefix is taken off what is forwarded, and put back in Location and cookie paths"`
	Rewrite  Dest     `env:"REWRITE" help:"what takes the place of the path prefix: /v2"`
	Network  string   `env:"NETWORK" help:"network to reach this container through"`
	Server   discovery.Server
	Settings discovery.Settings

	Any   bool              `env:"-"` // there is at least one known longshore.* label, and not enable=false
	Named map[string]Labels `env:"-"` // of longshore.NAME.port and its like; without Named
}

// DefaultLabels is what a container without labels says.
func DefaultLabels(defaults discovery.Settings) Labels {
	return Labels{Server: discovery.Server{Weight: 1}, Settings: defaults}
}

// ParseLabels reads a container's labels over defaults, which come from the environment.
// The error has one line for each wrong label; warnings name labels that nobody knows.
//
// A container can be several services: longshore.NAME.port makes one more, and each label that there is
// can be said of it alone, as longshore.NAME.host. What is not said of it is as in the other labels,
// except for host, path and what is done to that.
func ParseLabels(labels map[string]string, defaults discovery.Settings) (l Labels, warnings []string, err error) {
	l = DefaultLabels(defaults)
	known := names(fields(reflect.TypeFor[Labels](), ""), "")
	for i, name := range known {
		known[i] = labelName(name)
	}
	plain := make(map[string]string)
	named := make(map[string]map[string]string)
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !strings.HasPrefix(name, LabelPrefix) {
			continue
		}
		switch service, rest, ok := namedLabel(name, known); {
		case slices.Contains(known, name):
			plain[variable(name)] = labels[name]
		case ok && labels[LabelPrefix+service+".port"] != "":
			if named[service] == nil {
				named[service] = make(map[string]string)
			}
			named[service][variable(rest)] = labels[name]
		default:
			warnings = append(warnings, fmt.Sprintf("unknown label %s, ignored; the nearest known one is %s", name, nearest(name, known)))
			continue
		}
		l.Any = true
	}
	err = l.read(plain, "")
	for _, service := range slices.Sorted(maps.Keys(named)) {
		own := Labels{Network: l.Network, Server: l.Server, Settings: l.Settings}
		err = errors.Join(err, own.read(named[service], service))
		if l.Named == nil {
			l.Named = make(map[string]Labels)
		}
		l.Named[service] = own
	}
	if l.Enable == Off {
		l.Any = false
	}
	return l, warnings, err
}

// read parses the labels of one service of a container; name is empty for the one that needs none.
func (l *Labels) read(vars map[string]string, name string) error {
	if err := overlay(l, "", vars); err != nil {
		return inLabels(err, vars, name)
	}
	if l.Strip == On && strings.HasPrefix(l.Location.Path, "~") && l.Rewrite == "" {
		strip := map[string]string{"STRIP": vars["STRIP"]}
		return inLabels(fmt.Errorf("STRIP=%q: path is a regular expression, which has no prefix: use rewrite", vars["STRIP"]), strip, name)
	}
	return nil
}

// namedLabel takes longshore.NAME.host apart: the name, and the label that it would be without.
func namedLabel(label string, known []string) (name, rest string, ok bool) {
	name, rest, ok = strings.Cut(strings.TrimPrefix(label, LabelPrefix), ".")
	rest = LabelPrefix + rest
	word := func(k string) bool { return k == LabelPrefix+name || strings.HasPrefix(k, LabelPrefix+name+".") }
	valid := name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
	return name, rest, ok && valid && slices.Contains(known, rest) && !slices.ContainsFunc(known, word)
}

// IsService reports whether the labels that have no name say where requests come from or go to. Those of
// a container whose services have names need not.
func (l Labels) IsService() bool {
	return len(l.Named) == 0 || l.Enable == On || l.Port != 0 || len(l.Host) > 0 || l.Location.Path != ""
}

// HasRoutes reports whether the labels say which requests are for the container.
func (l Labels) HasRoutes() bool { return len(l.Host) > 0 || l.Location.Path != "" || len(l.Named) > 0 }

// Routes lists where the labels say that requests for this container come from.
func (l Labels) Routes() []discovery.Route {
	dest := string(l.Rewrite)
	if dest == "" && l.Strip == On {
		dest = "/"
	}
	return routes(l.Host, l.Location, dest)
}

// label is a label of one service of a container.
func label(service, variable string) string {
	name := labelName(variable)
	if service != "" {
		name = LabelPrefix + service + "." + strings.TrimPrefix(name, LabelPrefix)
	}
	return name
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
func inLabels(err error, vars map[string]string, service string) error {
	var errs []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, rest, _ := strings.Cut(line, "=")
		if _, ok := vars[key]; ok {
			line = "label " + label(service, key) + "=" + rest
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
