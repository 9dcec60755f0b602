package docker

import (
	"maps"
	"strings"

	"longshore/internal/config"
)

const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
	numberLabel  = "com.docker.compose.container-number"
	oneoffLabel  = "com.docker.compose.oneoff"
	replaceLabel = "com.docker.compose.replace"
)

// A badge is what a container's labels say. They do not change in its life, so they are read once.
type badge struct {
	labels map[string]string

	project, service, number string // as compose calls it; empty: made by somebody else
	oneoff                   bool   // by compose run
	replacing                bool   // another container, which may not be gone yet
	chosen                   bool   // by LONGSHORE_LABEL

	said   config.Labels // by those of ours
	wrong  error         // about them
	warned []string      // about them
}

// read returns the badge of a container with some labels. was is the one before, zero if there was none.
func (v view) read(labels map[string]string, was badge) badge {
	if was.said.Server.Weight != 0 && maps.Equal(labels, was.labels) {
		return was
	}
	b := badge{
		labels: labels, project: config.Clip(labels[projectLabel]), service: config.Clip(labels[serviceLabel]), number: config.Clip(labels[numberLabel]),
		oneoff: strings.EqualFold(labels[oneoffLabel], "true"), replacing: labels[replaceLabel] != "",
		chosen: v.label.Matches(labels), said: config.DefaultLabels(v.settings),
	}
	for l := range labels {
		if n := len(config.LabelPrefix); len(l) >= n && strings.EqualFold(l[:n], config.LabelPrefix) { // most containers have none
			b.said, b.warned, b.wrong = config.ParseLabels(labels, v.settings)
			break
		}
	}
	return b
}

// nameToBe is the name of a container that compose will rename once the one that it replaces is gone:
// until then "web" is called "04a772e39254_web". Empty for all others.
func (c *container) nameToBe() string {
	if id, name, ok := strings.Cut(c.name, "_"); ok && c.replacing && len(id) == 12 {
		return name
	}
	return ""
}

// title is a container's name for people, the same after it was recreated and under each compose.
func (c *container) title(withProject bool) string {
	if c.service == "" || c.number == "" {
		return config.Clip(c.name)
	}
	name := c.service + "-" + c.number
	if withProject {
		name = c.project + "/" + name
	}
	return name
}
