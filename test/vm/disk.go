package vm

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed mkdisk
var mkdisk string

// Disk says what a machine's disk holds beside Debian and Mote's programs.
type Disk struct {
	Cache    string   // keeps the Debian root, the kernel and its initial file system; "": $VM_CACHE, or /var/cache/mote-vm
	Bin      string   // Mote's programs; "": $MOTE_BIN, or bin of this module
	Archives []string // images, into /opt/mote
	Files    []string // "from:to", files or directories
	Size     string   // "": 4G
}

// Make writes the disk to path. It needs root, and deb.debian.org while Cache is empty.
func (d *Disk) Make(ctx context.Context, path string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	d.fill(strings.TrimSpace(string(root)))
	guest := path + ".guest"
	defer os.Remove(guest)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "netgo,osusergo", "-o", guest, "github.com/mote-edge/mote/test/vm/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's program: %w: %s", err, out)
	}
	args := append([]string{"-s", "--", d.Cache, d.Bin, path, guest + ":/opt/mote/guest"}, d.Archives...)
	cmd := exec.CommandContext(ctx, "bash", append(args, d.Files...)...)
	cmd.Stdin = strings.NewReader(mkdisk)
	cmd.Env = append(os.Environ(), "SIZE="+d.Size)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the disk: %w: %s", err, out)
	}
	return nil
}

// fill puts the defaults in.
func (d *Disk) fill(root string) {
	if d.Cache == "" {
		d.Cache = os.Getenv("VM_CACHE")
	}
	if d.Cache == "" {
		d.Cache = "/var/cache/mote-vm"
	}
	if d.Bin == "" {
		d.Bin = os.Getenv("MOTE_BIN")
	}
	if d.Bin == "" {
		d.Bin = filepath.Join(root, "bin")
	}
}
