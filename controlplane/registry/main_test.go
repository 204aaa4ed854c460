package registry_test

import (
	"fmt"
	"os"
	"testing"
)

var testDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mote-registry-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
