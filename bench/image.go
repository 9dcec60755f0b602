package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// images builds what the containers of a run are made of, each when it is first asked for.
type images struct {
	dir    string // of binaries and build contexts
	prefix string // of all tags
	tags   map[string]string
}

// An official image is used where a registry is reachable.
var official = map[string]string{"nginx": "nginx:1.29", "haproxy": "haproxy:3.2"}

// tag returns the image of a program: longshore, testapp, nginx or haproxy.
func (im *images) tag(ctx context.Context, program string) (string, error) {
	if tag, ok := im.tags[program]; ok {
		return tag, nil
	}
	dir := filepath.Join(im.dir, "image-"+program)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var dockerfile string
	switch program {
	case "longshore", "testapp":
		pkg := map[string]string{"longshore": "longshore/cmd/longshore", "testapp": "longshore/internal/testapp"}[program]
		if _, err := build(ctx, dir, pkg); err != nil {
			return "", err
		}
		dockerfile = fmt.Sprintf("FROM scratch\nCOPY %[1]s /%[1]s\nEXPOSE %[2]s\nENTRYPOINT [\"/%[1]s\"]\n", program,
			map[string]string{"longshore": "80", "testapp": "5090"}[program])
	default:
		if _, err := build(ctx, dir, "longshore/bench"); err != nil { // for the reloader
			return "", err
		}
		base := official[program]
		if !pull(ctx, base) {
			base = "scratch"
			if err := rootfs(ctx, program, filepath.Join(dir, "rootfs")); err != nil {
				return "", err
			}
		}
		dockerfile = "FROM " + base + "\nUSER 0:0\nCOPY bench /bench\n"
		if base == "scratch" {
			dockerfile += "COPY rootfs/ /\n"
		}
	}
	tag := im.prefix + "-" + program
	im.tags[program] = tag // also of an image that is half done: remove must find it
	return tag, dockerBuild(ctx, dir, tag, dockerfile)
}

func (im *images) remove() {
	for _, tag := range im.tags {
		command(context.Background(), "docker", "rmi", "-f", tag).Run()
	}
}

// version asks the program in its image.
func (im *images) version(ctx context.Context, program string) (string, error) {
	tag, err := im.tag(ctx, program)
	if err != nil {
		return "", err
	}
	out, err := command(ctx, "docker", "run", "--rm", "--network", "none", "--entrypoint", program, tag, "-v").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w\n%s", program, err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

// pull reports whether an image is here now.
func pull(ctx context.Context, image string) bool {
	if command(ctx, "docker", "image", "inspect", image).Run() == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return command(ctx, "docker", "pull", "-q", image).Run() == nil
}

// rootfs fills a directory with a program of this machine, its shared libraries, and the little that
// nginx and HAProxy expect of a root file system.
func rootfs(ctx context.Context, program, root string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		path = "/usr/sbin/" + program // which is not in everybody's PATH
	}
	libraries, err := command(ctx, "ldd", path).Output()
	if err != nil {
		return fmt.Errorf("%s: no registry is reachable, and it is not installed here: ldd: %w", program, err)
	}
	files := []string{path}
	for _, f := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(f, "/") {
			files = append(files, f)
		}
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		to := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, content, 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/:/\n", "etc/group": "root:x:0:\n", "tmp/.keep": "", "run/.keep": "",
		"var/lib/nginx/.keep": "", "var/log/nginx/.keep": "",
	} {
		to := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// dockerBuild builds dir into an image.
func dockerBuild(ctx context.Context, dir, tag, dockerfile string) error {
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return err
	}
	if out, err := command(ctx, "docker", "build", "-q", "-t", tag, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("docker build %s: %w\n%s", tag, err, out)
	}
	return nil
}
