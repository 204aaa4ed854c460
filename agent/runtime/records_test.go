package runtime

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func recordsFixture(t *testing.T) (*Service, *container, string) {
	t.Helper()
	s := &Service{cfg: Config{DataDir: t.TempDir()}}
	if err := os.Mkdir(filepath.Join(s.cfg.DataDir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}, Args: []string{strings.Repeat("a", 1000)}}
	c := newContainer(containerRecord{ID: "a", State: stateCreated}, config, "")
	return s, c, s.recordPath("c", "a")
}

func changeTo(t *testing.T, s *Service, c *container, st state) {
	t.Helper()
	c.rec.State = st
	if err := s.saveContainer(c); err != nil {
		t.Fatal(err)
	}
}

func reload(t *testing.T, path string) *container {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadContainer(raw, "a")
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	if len(c.config.Args) != 1 {
		t.Errorf("the configuration is lost: %v", c.config)
	}
	return c
}

// The configuration is written once, and a change is one line in the same file.
func TestRecordGrowsByLines(t *testing.T) {
	s, c, path := recordsFixture(t)
	changeTo(t, s, c, stateCreated)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	c2 := reload(t, path)
	changeTo(t, s, c2, stateStarting)
	changeTo(t, s, c2, stateRunning)
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("a change made a new file")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(raw, []byte("\n")); n != 3 || bytes.Count(raw, []byte(`"config"`)) != 1 {
		t.Errorf("%d lines: %s", n, raw)
	}
	if got := reload(t, path); got.rec.State != stateRunning || got.journal.lines != 3 {
		t.Errorf("state %s after %d lines", got.rec.State, got.journal.lines)
	}
}

// A line that a kill or a full disk broke off doesn't count, and the next change doesn't go on in the middle of it.
func TestRecordWithHalfALine(t *testing.T) {
	s, c, path := recordsFixture(t)
	changeTo(t, s, c, stateCreated)
	changeTo(t, s, c, stateStarting)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range []string{`{"id":"a","st`, "\x00\x00\x00", `{"id":"a","state":"exited"}`} {
		if err := os.WriteFile(path, append(bytes.Clone(whole), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		c := reload(t, path)
		if c.rec.State != stateStarting {
			t.Errorf("state %s with %q at the end", c.rec.State, tail)
		}
		changeTo(t, s, c, stateRunning)
		if got := reload(t, path); got.rec.State != stateRunning || got.journal.lines != 1 {
			t.Errorf("state %s in %d lines after a change", got.rec.State, got.journal.lines)
		}
	}
	if err := os.WriteFile(path, whole[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadContainer(whole[:20], "a"); err == nil {
		t.Error("half of a first line was taken for a record")
	}
}

// However often a container changes, its record stays small; one that was lost is there again after the next change.
func TestRecordIsWrittenAnew(t *testing.T) {
	s, c, path := recordsFixture(t)
	for range 5 * maxLines {
		changeTo(t, s, c, stateRunning)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(raw, []byte("\n")); n > maxLines {
		t.Errorf("%d lines", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	changeTo(t, s, c, stateExited)
	if got := reload(t, path); got.rec.State != stateExited {
		t.Errorf("state %s", got.rec.State)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// What is asked of a container that hasn't started is in the configuration that it starts with.
func TestRecordOfChangedConfiguration(t *testing.T) {
	s, c, path := recordsFixture(t)
	changeTo(t, s, c, stateCreated)
	c.config.StopSignal = cri.Signal_SIGNAL_SIGHUP
	if err := s.saveContainerWith(c, true); err != nil {
		t.Fatal(err)
	}
	changeTo(t, s, c, stateStarting)
	if got := reload(t, path); got.config.StopSignal != cri.Signal_SIGNAL_SIGHUP || got.rec.State != stateStarting {
		t.Errorf("stop signal %v, state %s", got.config.StopSignal, got.rec.State)
	}
}
