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
	Location PathRule `env:"PATH" help:"path prefix, on segment borders; ^~ /prefix that ends anywhere; =/exact; ~regular expression, ~* in any case. Default: /"`
	Strip    Switch   `env:"STRIP" help:"true: the path prefix is taken off what is forwarded, and put back in Location and cookie paths"`
	Rewrite  Dest     `env:"REWRITE" help:"what takes the place of the path prefix: /v2"`
	Network  string   `env:"NETWORK" help:"network to reach this container through"`
	Server   discovery.Server
	Settings discovery.Settings

	Service Name `env:"SERVICE" allowed:"a name of letters, digits, dots, dashes and underscores" help:"containers of a project with the same name here are one service, also where they are of several compose services"`

	Routing []string          `env:"-"` // names of the labels that say which requests are for this container
	Any     bool              `env:"-"` // there is at least one known longshore.* label, and not enable=false
	Named   map[string]Labels `env:"-"` // of longshore.NAME.port and its like; without Named
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
	said := make(map[string]map[string]string) // by name of the service, then as overlay reads it
	warn := func(text string) { warnings = append(warnings, Clip(text)) }
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, LabelPrefix) {
			continue
		}
		service, rest, ok := namedLabel(name, known)
		_, hasPort := labels[LabelPrefix+service+".port"]
		switch {
		case slices.Contains(known, name):
			service, rest = "", name
		case ok && hasPort:
		case lower != name && (slices.Contains(known, lower) || !strings.HasPrefix(name, LabelPrefix)):
			warn("label " + name + " is not read: labels are lower case, as " + lower + " is")
			continue
		default:
			warn("unknown label " + name + ", ignored" + nearest(name, LabelPrefix, known))
			continue
		}
		if said[service] == nil {
			said[service] = make(map[string]string)
		}
		key := variable(rest)
		said[service][key] = labels[name]
		if service != "" || slices.Contains([]string{"HOST", "PATH", "STRIP", "REWRITE", "SERVICE"}, key) {
			l.Routing = append(l.Routing, name)
		}
		if labels[name] == "" && !isOwn(key) {
			warn("label " + name + " is empty, and ignored: " + unsetVariable)
		}
		l.Any = true
	}
	err = l.read(said[""], "")
	for _, service := range slices.Sorted(maps.Keys(said)) {
		if service == "" {
			continue
		}
		own := Labels{Network: l.Network, Server: l.Server, Settings: l.Settings}
		err = errors.Join(err, own.read(said[service], service))
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

const unsetVariable = "perhaps a variable in the compose file is not set"

// isOwn reports whether a setting says where requests come from or go to: it is one of a container, and has no
// variable.
func isOwn(key string) bool { return len(fields(reflect.TypeFor[Labels](), "")[key].index) == 1 }

// read parses the labels of one service of a container; name is empty for the one that needs none. One that is
// empty must not mean every host, or another port: somebody wanted to say something.
func (l *Labels) read(vars map[string]string, name string) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(vars)) {
		if vars[key] == "" && isOwn(key) {
			errs = append(errs, fmt.Errorf("%s=%q: it is empty: %s", key, "", unsetVariable))
		}
	}
	if vars["SERVICE"] != "" && name != "" {
		errs = append(errs, fmt.Errorf("SERVICE=%s: want %sservice, which is for the whole container", Quote(vars["SERVICE"]), LabelPrefix))
	}
	if err := overlay(l, "", vars); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return inLabels(errors.Join(errs...), vars, name)
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
	word := func(k string) bool {
		return k == LabelPrefix+name && name != "service" || strings.HasPrefix(k, LabelPrefix+name+".")
	}
	valid := name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
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

// A Name is what a service may be called.
type Name string

// UnmarshalText accepts what compose accepts as the name of a service.
func (n *Name) UnmarshalText(b []byte) error {
	if len(b) > 63 || strings.Trim(string(b), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return errors.New("want a name")
	}
	*n = Name(b)
	return nil
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
