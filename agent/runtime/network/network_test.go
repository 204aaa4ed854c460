package network

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{"10M": 10e6, "1Gi": 1 << 30, "512": 512, "1.5k": 1500} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "fast", "-1M", "0", "10X"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// What libcni remembers of a sandbox that nobody knows any more is reason to have the plugins look.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	n := New(dir, nil, dir, nil)
	if n.Stale(nil) {
		t.Error("stale without any attachment")
	}
	if err := os.Mkdir(filepath.Join(dir, "results"), 0o700); err != nil {
		t.Fatal(err)
	}
	entry := `{"kind":"cniCacheV1","containerId":"a","ifName":"eth0","networkName":"mote","netns":"/n","config":"e30="}`
	if err := os.WriteFile(filepath.Join(dir, "results", "mote-a-eth0"), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	if n.Stale([]string{"b", "a"}) || !n.Stale([]string{"b"}) {
		t.Error("a is known in the first case and unknown in the second")
	}
}

// Plugins free what an interrupted ADD left when they are asked to collect, from version 1.1 on.
func TestCollects(t *testing.T) {
	for conf, want := range map[string]bool{
		"": true, // nothing can have been added
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"p"}]}`:                  false,
		`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"p"}]}`:                  true,
		`{"cniVersion":"1.1.0","name":"n","disableGC":true,"plugins":[{"type":"p"}]}`: false,
		`{"cniVersion":"1.1.0","name":"n","plugins":`:                                 false,
	} {
		dir := t.TempDir()
		if conf != "" {
			if err := os.WriteFile(filepath.Join(dir, "10-n.conflist"), []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := New(dir, nil, dir, nil).Collects(); got != want {
			t.Errorf("%s: %v, want %v", conf, got, want)
		}
	}
}
