// Package e2e drives a lab of a server and two workers that joined by token with stock kubectl, as a user would: what the README promises is shown here.
//
// Reads:  bin/ (from `make programs`).
// Writes: a lab, in a temporary directory.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mote-edge/mote/test/lab"
)

var cluster *lab.Lab

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: a lab needs root")
		return
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "mote-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin := os.Getenv("BIN")
	if bin == "" {
		bin = "../../bin"
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return 1, err
	}
	if _, err := os.Stat(filepath.Join(bin, "mote")); err != nil {
		return 1, fmt.Errorf("bin/mote is missing: run `make programs` first")
	}
	images, err := packImages(dir)
	if err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cfg := lab.Config{Name: fmt.Sprintf("me%d", os.Getpid()%10000), Dir: dir, Bin: bin, Workers: 2, Images: images}
	if cluster, err = lab.Up(ctx, cfg); err != nil {
		return 1, err
	}
	defer func() {
		if derr := cluster.Down(context.Background()); derr != nil && err == nil {
			code, err = 1, derr
		}
	}()
	return m.Run(), nil
}

// packImages makes the tests' two images: busybox, and the network program of this folder.
func packImages(dir string) ([]string, error) {
	peer := filepath.Join(dir, "peer")
	build := exec.Command("go", "build", "-trimpath", "-o", peer, "./peer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the network program: %w: %s", err, out)
	}
	var archives []string
	for _, program := range []string{"/bin/busybox", peer} {
		name := filepath.Base(program)
		archive := filepath.Join(dir, name+".tar")
		pack := exec.Command("go", "run", "../../examples/pack", "-o", archive, "-ref", "mote.local/"+name+":1", program)
		if out, err := pack.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make the image %s: %w: %s", name, err, out)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// kubectl runs stock kubectl and fails the test if it does.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	return cluster.Kubectl(ctx, args...)
}

// apply creates objects from a manifest and deletes them with the test.
func apply(t *testing.T, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", file)
	t.Cleanup(func() {
		if out, err := try("delete", "-f", file, "--grace-period=1", "--ignore-not-found", "--timeout=60s"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// busybox is a pod that runs a shell script.
func busybox(name, node, script string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  nodeName: %s
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "mote.local/busybox:1", args: [sh, -c, %q], securityContext: {runAsUser: 0}}
`, name, name, node, script)
}

// until polls another process's state, for which there is no event to wait for.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
