package cri

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// registryAddress is where the images for critest are served, in the runtime's own network namespace.
const registryAddress = "127.0.0.1:5000"

type junit struct {
	Cases []struct {
		Name    string `xml:"name,attr"`
		Status  string `xml:"status,attr"`
		Skipped *struct {
			Message string `xml:"message,attr"`
		} `xml:"skipped"`
		Failure *struct {
			Message string `xml:"message,attr"`
			Detail  string `xml:",chardata"`
		} `xml:"failure"`
	} `xml:"testsuite>testcase"`
}

// TestCritest runs cri-tools' own suite, each spec a subtest. CRITEST=1 asks for it, as it takes minutes; any other value
// is a regular expression of the specs to run, CRITEST_ARGS are arguments for it, CRITEST_LOG is a file for all it says.
func TestCritest(t *testing.T) {
	focus := os.Getenv("CRITEST")
	if focus == "" {
		t.Skip("CRITEST=1 runs cri-tools' suite; it needs what test/peers/build makes")
	}
	dir := t.TempDir()
	serveImages(t, dir)
	// Its pods name no cgroup parent; what the runtimes take then stays behind, empty.
	t.Cleanup(func() {
		left, _ := filepath.Glob("/sys/fs/cgroup/*/[mk][o8]*")
		for _, path := range left {
			if name := filepath.Base(path); name == "mote-pods" || name == "k8s.io" {
				_ = os.Remove(path)
			}
		}
	})
	args := []string{
		filepath.Join(peers(), "critest"), "-runtime-endpoint", "unix://" + shared.socket, "-image-endpoint", "unix://" + shared.socket,
		"-ginkgo.junit-report", filepath.Join(dir, "report.xml"), "-ginkgo.no-color", "-ginkgo.seed", "1", "-config", filepath.Join(dir, "none.yaml"),
	}
	if focus != "1" {
		args = append(args, "-ginkgo.focus", focus)
	}
	args = append(args, strings.Fields(os.Getenv("CRITEST_ARGS"))...)
	cmd := shared.in(args...)
	cmd.Dir = dir
	out, runErr := cmd.CombinedOutput()
	if path := os.Getenv("CRITEST_LOG"); path != "" {
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Error(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "report.xml"))
	if err != nil {
		t.Fatalf("critest left no report: %v: %v\n%s", err, runErr, out)
	}
	var report junit
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Cases {
		name := strings.TrimPrefix(c.Name, "[It] ")
		if strings.HasPrefix(name, "[") && !strings.HasPrefix(name, "[k8s.io]") {
			continue // the suite's own steps
		}
		t.Run(strings.TrimPrefix(name, "[k8s.io] "), func(t *testing.T) {
			switch {
			case c.Failure != nil:
				t.Errorf("%s\n%s", c.Failure.Message, c.Failure.Detail)
			case c.Skipped != nil || c.Status == "skipped":
				t.Skip(c.Skipped.Message)
			}
		})
	}
}

// serveImages starts a registry in the runtime's network namespace and makes it every registry's mirror.
func serveImages(t *testing.T, dir string) {
	t.Helper()
	images, _ := filepath.Glob(filepath.Join(filepath.Dir(peers()), "images", "*.tar"))
	if len(images) == 0 {
		t.Fatal("there are no images: run test/peers/build first")
	}
	args := append([]string{filepath.Join(peers(), "registry"), "-addr", registryAddress, "-dir", filepath.Join(dir, "blobs"), "-busybox", filepath.Join(filepath.Dir(images[0]), "busybox.tar")}, images...)
	registry := shared.in(args...)
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	registry.Stdout, registry.Stderr = log, log
	if err := registry.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Process.Signal(unix.SIGKILL); _ = registry.Wait() })
	eventually(t, "the registry with its images", func() bool {
		raw, _ := os.ReadFile(log.Name())
		return strings.Contains(string(raw), "\nserving ") || strings.HasPrefix(string(raw), "serving ")
	})
	mirrorAll(t)
}

// mirrorAll makes registryAddress the place that mote-runtime asks for every image; containerd's files say so from the start.
func mirrorAll(t *testing.T) {
	t.Helper()
	if shared.kind == "mote" {
		mirror := fmt.Sprintf("mirrors: {\"*\": {endpoints: [\"http://%s\"]}}\n", registryAddress)
		if err := os.WriteFile(filepath.Join(shared.dir, "config", "registries.yaml"), []byte(mirror), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
