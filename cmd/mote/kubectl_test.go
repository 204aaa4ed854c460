package main

import (
	"slices"
	"testing"

	"github.com/mote-edge/mote/internal/layout"
)

func TestOwnFlagsLeavesKubectlItsOwn(t *testing.T) {
	for _, tc := range []struct {
		in, out []string
		config  string
		bad     bool
	}{
		{in: []string{"get", "pods", "--config-dir", "x"}, out: []string{"get", "pods", "--config-dir", "x"}, config: "/etc/mote"},
		{in: []string{"--config-dir", "/c", "get", "-n", "a"}, out: []string{"get", "-n", "a"}, config: "/c"},
		{in: []string{"--config-dir=/c", "--run-dir", "/r"}, config: "/c"},
		{in: []string{"--config-dir"}, bad: true},
		{in: []string{"--help"}, out: []string{"--help"}, config: "/etc/mote"},
	} {
		dirs := layout.Default()
		got, err := ownFlags(&dirs, tc.in)
		if (err != nil) != tc.bad {
			t.Errorf("%v: %v", tc.in, err)
		}
		if err == nil && (!slices.Equal(got, tc.out) || dirs.Config != tc.config) {
			t.Errorf("%v: %v, %s", tc.in, got, dirs.Config)
		}
	}
}
