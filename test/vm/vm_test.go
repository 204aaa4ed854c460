package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var base struct {
	cache, disk string
}

// TestMain makes the disk once. VM_CACHE keeps the Debian root between runs (default /var/cache/mote-vm), MOTE_BIN names the
// programs.
func TestMain(m *testing.M) {
	if os.Getenv("VM") == "" {
		fmt.Println("skipped: set VM=1, or use `make vm`; it emulates a machine and takes an hour")
		return
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	if os.Getuid() != 0 {
		return 1, errors.New("the disk's root is made by root: run it as root")
	}
	dir, err := os.MkdirTemp("", "mote-vm-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	base.disk = filepath.Join(dir, "base.img")
	archive := filepath.Join(dir, "busybox.tar")
	if out, err := exec.Command("go", "run", "../../examples/pack", "-o", archive, "-ref", "mote.local/busybox:1", "/bin/busybox").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("make the test image: %w: %s", err, out)
	}
	disk := Disk{Archives: []string{archive}}
	if more := os.Getenv("VM_IMAGES"); more != "" {
		found, err := filepath.Glob(more)
		if err != nil {
			return 1, err
		}
		disk.Archives = append(disk.Archives, found...)
	}
	if err := disk.Make(context.Background(), base.disk); err != nil {
		return 1, err
	}
	base.cache = disk.Cache
	return m.Run(), nil
}

// newMachine is a machine with a disk of its own.
func newMachine(t *testing.T) *Machine {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("cp", "--sparse=always", base.disk, filepath.Join(dir, "disk.img")).CombinedOutput(); err != nil {
		t.Fatalf("copy the disk: %v: %s", err, out)
	}
	m := &Machine{Dir: dir, Cache: base.cache}
	t.Cleanup(func() {
		m.Cut()
		if t.Failed() {
			t.Logf("the end of the console:\n%s", m.Console(6000))
		}
	})
	return m
}

func boot(t *testing.T, m *Machine) {
	t.Helper()
	started := time.Now()
	if err := m.Boot(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("boot %d took %s", m.Boots, time.Since(started).Round(time.Second))
}

// sh runs a script that must succeed.
func sh(t *testing.T, m *Machine, limit time.Duration, script string) string {
	t.Helper()
	out, err := m.Run(context.Background(), 4*limit, script) // limits are a free machine's
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	whole = "export KUBECONFIG=/etc/mote/admin.kubeconfig; "
	apart = "export KUBECONFIG=/etc/mote-server/admin.kubeconfig; "
)

// ready waits for the node, by the API.
const ready = `for i in $(seq 1200); do kubectl get nodes -o name 2>/dev/null | grep -q node && break; sleep 0.5; done; kubectl wait --for=condition=Ready node --all --timeout=600s`

func pod(name, extra, script string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {terminationGracePeriodSeconds: 1, %s containers: [{name: c, image: 'mote.local/busybox:1', args: [sh, -c, %q], securityContext: {runAsUser: 0}, %s}]}}",
		name, field(extra, "pod:"), script, field(extra, "container:"))
}

// field picks the part of extra with this mark: "pod:… container:…".
func field(extra, mark string) string {
	for part := range strings.SplitSeq(extra, "|") {
		if rest, ok := strings.CutPrefix(part, mark); ok {
			return rest
		}
	}
	return ""
}

func apply(manifests ...string) string {
	return "cat <<'EOF' | kubectl apply -f - >&2\n" + "# YAML, not JSON\n" + strings.Join(manifests, "\n---\n# YAML\n") + "\nEOF\n"
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatalf("%q is no number", text)
	}
	return n
}
