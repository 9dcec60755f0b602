package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"longshore/discovery"
)

// Table is docs/reference.md's table of variables and labels, in Markdown, in the order of the structs.
func Table() string {
	var b strings.Builder
	b.WriteString("| variable | label | default | meaning |\n|---|---|---|---|\n")
	row := func(variable, label, def, help string) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", code(variable), code(label), code(def), strings.ReplaceAll(help, "|", `\|`))
	}
	vars := fields(reflect.TypeFor[Config](), Prefix)
	for _, key := range inOrder(vars) {
		f, label := vars[key], ""
		if f.inService {
			label = labelName(strings.TrimPrefix(key, Prefix))
		}
		help := f.help
		if f.alias != "" {
			help += "; also written " + code(labelName(f.alias)) + ", " + code(Prefix+f.alias)
		}
		if f.secret {
			help += "; or " + code(key+fileSuffix) + ": a file that holds it"
		}
		row(key, label, f.def, help)
	}
	labels := fields(reflect.TypeFor[Labels](), "")
	for _, key := range inOrder(labels) {
		if f := labels[key]; !f.inService {
			row("", labelName(key), f.def, f.help)
		}
	}
	return b.String()
}

// Names are all variables and labels that there are.
func Names() map[string]bool {
	all := make(map[string]bool)
	for key, f := range fields(reflect.TypeFor[Config](), Prefix) {
		all[key] = true
		if f.secret {
			all[key+fileSuffix] = true
		}
		if f.inService {
			all[labelName(strings.TrimPrefix(key, Prefix))] = true
		}
	}
	for key := range fields(reflect.TypeFor[Labels](), "") {
		all[labelName(key)] = true
	}
	return all
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// inOrder sorts settings as their structs list them.
func inOrder(all map[string]field) []string {
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return slices.Compare(all[a].index, all[b].index)
	})
}

// Defaults are the per-service settings of an empty environment.
func Defaults() discovery.Settings {
	c, _, _ := Load(nil)
	return c.Settings
}
