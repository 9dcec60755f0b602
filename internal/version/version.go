// Package version tells what was built.
package version

import "runtime/debug"

// Set by builds that have no repository, such as the Dockerfile's: -ldflags "-X longshore/internal/version.version=…".
var version, commit string

// Read returns the version: what the build was told, else the module's version, else a commit.
func Read() (ver, goVersion string) {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		bi = &debug.BuildInfo{GoVersion: "unknown"}
	}
	if version != "" {
		return version, bi.GoVersion
	}
	ver = bi.Main.Version
	if rev := Commit(); rev != "" && (ver == "" || ver == "(devel)") {
		ver = rev
	}
	if ver == "" {
		ver = "(devel)"
	}
	return ver, bi.GoVersion
}

// Commit returns the commit that was built; empty: it is not known.
func Commit() string {
	if commit != "" {
		return commit
	}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}
