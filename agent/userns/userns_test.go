package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func few(n uint32) func(uint32) (Range, error) {
	return func(length uint32) (Range, error) { return Range{First: 4 * length, Length: n * length}, nil }
}

func TestRanges(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{PodsDir: dir, MaxPods: 3, Owned: few(3)}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]types.UID{}
	for i := range 3 {
		uid := types.UID(fmt.Sprint("pod-", i))
		got, err := r.For(uid)
		if err != nil || got.Length != 65536 || got.First%65536 != 0 || got.First < 4*65536 || got.First >= 7*65536 || seen[got.First] != "" {
			t.Fatalf("%s: %v, %v", uid, got, err)
		}
		seen[got.First] = uid
		if again, err := r.For(uid); err != nil || again != got {
			t.Errorf("%s has %v, and then %v, %v", uid, got, again, err)
		}
	}
	if _, err := r.For("one-too-many"); err == nil || !strings.Contains(err.Error(), "could not find an empty slot") {
		t.Errorf("%v", err)
	}

	// The next agent knows what pods have.
	if r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	for first, uid := range seen {
		if got, err := r.For(uid); err != nil || got.First != first {
			t.Errorf("%s after a restart: %v, %v; it had %d", uid, got, err, first)
		}
	}
	if err := r.Release("pod-1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Release("pod-1"); err != nil {
		t.Errorf("released twice: %v", err)
	}
	if got, err := r.For("another"); err != nil || seen[got.First] != "pod-1" {
		t.Errorf("what was released: %v, %v", got, err)
	}
}

func TestUnreadableFileIsThePodsTrouble(t *testing.T) {
	dir := t.TempDir()
	file := func(uid, text string) {
		if err := os.Mkdir(filepath.Join(dir, uid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, uid, "userns"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one := func(host, container, length int) string {
		m := fmt.Sprintf(`[{"hostId":%d,"containerId":%d,"length":%d}]`, host, container, length)
		return fmt.Sprintf(`{"uidMappings":%s,"gidMappings":%s}`, m, m)
	}
	file("empty", "")
	file("outside", one(65536, 0, 65536))
	file("odd", one(5*65536+1, 0, 65536))
	file("short", one(5*65536, 0, 1000))
	file("rootless", one(5*65536, 1, 65536))
	file("good", one(5*65536, 0, 65536))
	file("second", one(5*65536, 0, 65536))
	r, err := New(Config{PodsDir: dir, Owned: few(100)})
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []types.UID{"empty", "outside", "odd", "short", "rootless", "second"} {
		if got, err := r.For(uid); err == nil {
			t.Errorf("%s: %v", uid, got)
		}
	}
	if got, err := r.For("good"); err != nil || got.First != 5*65536 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		owned  Range
		length uint32
		pods   int
		want   string
	}{
		"everything else": {Range{65536, 1<<32 - 65536}, 65536, 110, ""},
		"two units a pod": {Range{131072, 131072 * 110}, 131072, 110, ""},
		"the host's":      {Range{0, 1 << 31}, 65536, 110, "greater or equal"},
		"odd beginning":   {Range{100000, 65536 * 110}, 65536, 110, "not a multiple"},
		"odd length":      {Range{65536, 65536*110 + 1}, 65536, 110, "length"},
		"too few":         {Range{65536, 65536 * 109}, 65536, 110, "not enough to support 110 pods"},
	} {
		err := check(test.owned, test.length, test.pods)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, length := range []int64{-65536, 1000, 1 << 32} {
		if _, err := New(Config{Length: length, Owned: few(1)}); err == nil || !strings.Contains(err.Error(), "idsPerPod") {
			t.Errorf("%d: %v", length, err)
		}
	}
}

func TestParse(t *testing.T) {
	if got, err := parse("0: kubelet 65536 7208960\n"); err != nil || got != (Range{65536, 7208960}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "0: kubelet 65536\n", "0: kubelet 1 2\n1: kubelet 3 4\n", "0: kubelet x 2\n", "0: kubelet 1 4294967296\n"} {
		if got, err := parse(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
