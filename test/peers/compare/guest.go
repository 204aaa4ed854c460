package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mote-edge/mote/test/vm"
)

// guest runs the tests in a virtual machine, each runtime in one that has just booted.
type guest struct {
	dir     string
	machine *vm.Machine
}

// newGuest makes the machine's disk: Mote's programs, the peers with their images, and the tests.
func newGuest(ctx context.Context, logs, program string) (*guest, error) {
	g := &guest{dir: filepath.Join(logs, "cri-vm")}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	probe := filepath.Join(g.dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", probe, "./test/cri/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the tests' probe: %w: %s", err, out)
	}
	sudo := filepath.Join(g.dir, "sudo") // critest loads its AppArmor profiles with it
	if err := os.WriteFile(sudo, []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755); err != nil {
		return nil, err
	}
	peers := os.Getenv("PEERS")
	if peers == "" {
		peers = "/var/tmp/mote-peers/bin"
	}
	disk := vm.Disk{Files: []string{
		program + ":/opt/cri/cri.test", probe + ":/opt/mote/probe", sudo + ":/usr/local/bin/sudo",
		peers + ":/var/tmp/mote-peers/bin", filepath.Join(filepath.Dir(peers), "images") + ":/var/tmp/mote-peers/images",
	}}
	if err := disk.Make(ctx, filepath.Join(g.dir, "disk.img")); err != nil {
		return nil, err
	}
	g.machine = &vm.Machine{Dir: g.dir, Cache: disk.Cache, Memory: 2048, Unsafe: true}
	return g, nil
}

func (g *guest) close() {
	g.machine.Cut()
	_ = os.RemoveAll(g.dir)
}

// runTests is runTests in the machine. It is emulated: the time limits are generous.
func (g *guest) runTests(ctx context.Context, _, name, part string) ([]byte, error) {
	g.machine.Cut()
	if err := g.machine.Boot(ctx); err != nil {
		return nil, err
	}
	// What the tests say goes to a file first, so that `vmctl look` can follow them.
	out, err := g.machine.Run(ctx, 100*time.Minute, fmt.Sprintf(`cd /opt/cri
CRI_RUNTIME=%s CRITEST=1 MOTE_BIN=/opt/mote CRI_SLOW=10 CRITEST_LOG=/var/log/critest ./cri.test -test.v=test2json -test.timeout=90m '%s' >/var/log/cri.out 2>/var/log/cri.err
code=$?; cat /var/log/cri.out; [ $code = 0 ] || cat /var/log/cri.err`, name, part))
	if err != nil {
		return nil, err
	}
	convert := exec.CommandContext(ctx, "go", "tool", "test2json")
	convert.Stdin = bytes.NewBufferString(out)
	convert.Stderr = os.Stderr
	return convert.Output()
}
