package evict

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// use lets a process of its own use memory in a cgroup, and waits until it has.
func use(t *testing.T, cgroup string, bytes int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestUseMemory$")
	cmd.Env = append(os.Environ(), "EVICT_TEST_CGROUP="+cgroup, "EVICT_TEST_BYTES="+strconv.Itoa(bytes))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestUseMemory(t *testing.T) {
	cgroup := os.Getenv("EVICT_TEST_CGROUP")
	if cgroup == "" {
		t.Skip("only a part of TestMemoryThreshold")
	}
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(os.Getenv("EVICT_TEST_BYTES"))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
}
