// Package vm runs a node in a virtual machine: QEMU in full emulation, Debian 12 with systemd, kernel 6.1 and cgroup v2
// alone. The harness talks to it through a virtio port, so nothing listens on the machine that runs the tests; a power cut
// is a SIGKILL of QEMU.
//
// Reads:  a disk that mkdisk made.
// Writes: a copy of it; the console's log.
package vm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is one virtual machine. It may be started again after Cut.
type Machine struct {
	Dir    string // console.log, port.sock
	Disk   string // "": disk.img in Dir
	Cache  string // vmlinuz, initrd.img
	Memory int    // MiB; 0: 768
	NIC    string // as QEMU's -nic says it; "": a network of its own
	Unsafe bool   // writes needn't outlive a power cut
	Boots  int

	cmd  *exec.Cmd
	done chan struct{}
	conn net.Conn
	in   *bufio.Reader
	next int
}

// request and reply are guest's.
type request struct {
	ID      int           `json:"id"`
	Script  string        `json:"script"`
	Timeout time.Duration `json:"timeout"`
}

type reply struct {
	ID   int    `json:"id"`
	Out  string `json:"out"`
	Code int    `json:"code"`
}

// errCode is a script's failure.
var errCode = errors.New("the script failed")

// Boot starts the machine and waits until its guest answers.
//
// The disk is opened with cache=directsync: each write that the guest sees done is in the image, and none is kept back to be
// merged or reordered, as on a disk without a volatile cache. What a power cut loses is what the guest had not written yet:
// everything in its page cache that nobody synced.
func (m *Machine) Boot(ctx context.Context) error {
	sock := filepath.Join(m.Dir, "port.sock")
	_ = os.Remove(sock)
	_ = os.Remove(filepath.Join(m.Dir, "look.sock"))
	console, err := os.OpenFile(filepath.Join(m.Dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	m.Boots++
	fmt.Fprintf(console, "\n=== boot %d\n", m.Boots)
	writes := "directsync"
	if m.Unsafe {
		writes = "unsafe"
	}
	m.cmd = exec.Command("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
		"-m", strconv.Itoa(cmp.Or(m.Memory, 768)), "-smp", "2", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(m.Cache, "vmlinuz"), "-initrd", filepath.Join(m.Cache, "initrd.img"),
		// no_timer_check: on a busy host the emulated timer is late for the kernel's check of it, which ends in a panic.
		"-append", "console=ttyS0 root=/dev/vda rw panic=1 mitigations=off no_timer_check systemd.show_status=false quiet",
		"-drive", "id=d,format=raw,if=virtio,cache="+writes+",file="+cmp.Or(m.Disk, filepath.Join(m.Dir, "disk.img")),
		"-nic", cmp.Or(m.NIC, "user,model=virtio-net-pci"), "-serial", "stdio",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,server=on,wait=off,path="+sock, "-device", "virtserialport,chardev=port,name=mote",
		"-chardev", "socket,id=look,server=on,wait=off,path="+filepath.Join(m.Dir, "look.sock"), "-device", "virtserialport,chardev=look,name=mote.look")
	m.cmd.Stdout, m.cmd.Stderr = console, console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	m.done = make(chan struct{})
	go func() { _ = m.cmd.Wait(); close(m.done) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if m.conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(deadline) || !m.Running() {
			return fmt.Errorf("QEMU's port: %w; the end of the console:\n%s", err, m.Console(2000))
		}
	}
	m.in = bufio.NewReader(m.conn)
	if _, err := m.receive(ctx, 0, 12*time.Minute); err != nil {
		return fmt.Errorf("the machine doesn't come up: %w; the end of its console:\n%s", err, m.Console(3000))
	}
	return nil
}

// Running tells whether QEMU is there.
func (m *Machine) Running() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// Wait waits until the machine has turned itself off.
func (m *Machine) Wait(limit time.Duration) error {
	select {
	case <-m.done:
		m.Cut()
		return nil
	case <-time.After(limit):
		return fmt.Errorf("the machine is on after %s; the end of its console:\n%s", limit, m.Console(2000))
	}
}

// Console is the end of what the machine has printed.
func (m *Machine) Console(most int) string {
	raw, err := os.ReadFile(filepath.Join(m.Dir, "console.log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-most):])
}

// Cut is a power cut.
func (m *Machine) Cut() {
	if m.cmd == nil || m.cmd.Process == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	<-m.done
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

// Run runs a shell script as root and returns what it printed. A script that fails is an error with its output.
func (m *Machine) Run(ctx context.Context, limit time.Duration, script string) (string, error) {
	m.next++
	line, err := json.Marshal(request{m.next, script, limit})
	if err != nil {
		return "", err
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return "", err
	}
	r, err := m.receive(ctx, m.next, limit+30*time.Second)
	if err != nil {
		return "", err
	}
	out := strings.TrimSpace(r.Out)
	if r.Code != 0 {
		return out, fmt.Errorf("%w: exit code %d: %s: %s", errCode, r.Code, script, out)
	}
	return out, nil
}

// Look runs a script in the running machine of this directory, whoever started it, beside what that one runs.
func Look(ctx context.Context, dir string, limit time.Duration, script string) (string, error) {
	conn, err := net.Dial("unix", filepath.Join(dir, "look.sock"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	m := &Machine{conn: conn, in: bufio.NewReader(conn), next: int(time.Now().UnixNano() % 1e9)}
	if _, err := m.receive(ctx, 0, 10*time.Second); err != nil { // nobody was there before: the guest comes back within a second
		return "", err
	}
	return m.Run(ctx, limit, script)
}

func (m *Machine) receive(ctx context.Context, id int, limit time.Duration) (reply, error) {
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := m.conn.SetReadDeadline(deadline); err != nil {
		return reply{}, err
	}
	for {
		line, err := m.in.ReadBytes('\n')
		if err != nil {
			return reply{}, fmt.Errorf("no answer within %s: %w", limit, err)
		}
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			return r, fmt.Errorf("answer %q: %w", line, err)
		}
		if r.ID == id {
			return r, nil
		}
	}
}
