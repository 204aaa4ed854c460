package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "x")
	var got map[string]int
	if found, err := Read(file, &got); found || err != nil {
		t.Fatal(found, err)
	}
	for i := range 3 {
		if i > 0 { // a crash left it, longer than what is written next
			if err := os.WriteFile(file+".new", []byte("{half of something}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if i == 2 {
			if found, err := Read(file, &got); !found || err != nil {
				t.Fatal(found, err)
			}
			if _, err := os.Lstat(file + ".new"); err == nil {
				t.Error("what a crash left is there still")
			}
		}
		if err := Write(file, map[string]int{"n": i}); err != nil {
			t.Fatal(err)
		}
		if found, err := Read(file, &got); !found || err != nil || got["n"] != i {
			t.Fatal(found, err, got)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
	if err := os.WriteFile(file, []byte(`{"n":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, &got); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a torn file: %v", err)
	}
	if err := Write(file, make(chan int)); err == nil {
		t.Error("a channel was written")
	}
}
