package oom

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	global = "6,100,5,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/pod1/c,task=stress,pid=4711,uid=0\n"
	member = "6,101,5,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/x,mems_allowed=0,oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/c,task=stress,pid=4712,uid=0\n"
)

func TestSystemKill(t *testing.T) {
	for record, want := range map[string]string{
		global: "System OOM encountered, victim process: stress, pid: 4711", member: "",
		"12,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,task=fake,pid=1": "", // somebody wrote it into the log
		"6,1,1,-;something else": "", " SUBSYSTEM=cpu\n": "", "": "", ";oom-kill:": "", "6,1;oom-kill:": "System OOM encountered",
	} {
		if got, _ := systemKill(record); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}

// A pipe stands for the kernel's log.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	kernel, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	events := make(chan string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	w := &Watcher{Path: path, Event: func(kind, reason, message string) { events <- kind + " " + reason + " " + message }, Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if _, err := kernel.WriteString(member + global); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-events:
		if got != "Warning SystemOOM System OOM encountered, victim process: stress, pid: 4711" {
			t.Error(got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	cancel()
	if err := <-done; err != nil || len(events) > 0 {
		t.Error(err, len(events))
	}
}

// The real log can be followed, and left.
func TestKernelLog(t *testing.T) {
	if f, err := os.Open("/dev/kmsg"); err != nil {
		t.Skip("the kernel's log can't be read:", err)
	} else {
		_ = f.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := (&Watcher{Event: func(string, string, string) {}, Log: slog.Default()}).Run(ctx); err != nil {
		t.Error(err)
	}
}
