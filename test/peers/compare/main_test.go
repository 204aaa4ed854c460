package main

import (
	"slices"
	"testing"
)

func TestCompare(t *testing.T) {
	events := func(lines string) outcomes { return leaves([]byte(lines)) }
	results := map[string]outcomes{
		"mote": events(`{"Action":"run","Test":"TestA"}
{"Action":"pass","Test":"TestA/x"}
{"Action":"skip","Test":"TestA/y"}
{"Action":"fail","Test":"TestA"}
{"Action":"pass","Test":"TestCritest/Container_OOM_it"}
not json
{"Action":"skip","Test":"TestCritest/Image_benchmark_it"}
{"Action":"pass"}`),
		"containerd": events(`{"Action":"pass","Test":"TestA/x"}
{"Action":"pass","Test":"TestA/y"}
{"Action":"fail","Test":"TestCritest/Container_OOM_it"}`),
	}
	rows := table(results, map[string]string{"TestA": "test/cri: a"})
	for row, want := range map[string][2]string{
		"test/cri: a":            {"1/2, 1 skipped", "2/2"},
		"critest: Container OOM": {"1/1", "0/1"},
		"critest: **total**":     {"1/1", "0/1"},
	} {
		if got := [2]string{rows[row]["mote"].String(), rows[row]["containerd"].String()}; got != want {
			t.Errorf("%s: %v, want %v", row, got, want)
		}
	}
	want := []string{"- `TestA/y`: mote skip, containerd pass", "- `Container_OOM_it`: mote pass, containerd fail"}
	if got := differences(results); !slices.Equal(got, want) {
		t.Errorf("differences: %q", got)
	}
}
