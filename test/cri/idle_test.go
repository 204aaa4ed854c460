package cri

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The blueprint: nothing polls. With containers running and nobody asking, the runtime doesn't run.
func TestIdleMeansIdle(t *testing.T) {
	needsMote(t)
	p := newPod(t, onPodNetwork)
	for range 10 {
		p.run("sleep 1000")
	}
	eventually(t, "an idle second", func() bool {
		before := ticks(t, shared.runtimePid(t))
		time.Sleep(time.Second)
		return ticks(t, shared.runtimePid(t)) == before
	})
	if spent := ticks(t, shared.hold.Process.Pid); spent > 100*int(seconds(1)) {
		t.Errorf("mote-hold has used %d ticks", spent)
	}
}

// ticks is the processor time of a process, in hundredths of a second.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	var user, system int
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}
