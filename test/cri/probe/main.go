// Command probe runs inside a container under test: each argument names something that a container had better not be
// able to do, and it prints what came of it, a line each.
package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

var attempts = map[string]func() error{
	"keyctl": func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); return err },
	"add_key": func() error {
		_, err := unix.AddKey("user", "k", []byte("v"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"mount":      func() error { return unix.Mount("x", "/tmp", "tmpfs", 0, "") },
	"umount":     func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
	"unshare":    func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"newns":      func() error { return unix.Unshare(unix.CLONE_NEWNS) },
	"setns":      func() error { return unix.Setns(0, unix.CLONE_NEWNET) },
	"pivot_root": func() error { return unix.PivotRoot("/", "/") },
	"swapon":     func() error { _, _, e := unix.Syscall(unix.SYS_SWAPON, 0, 0, 0); return number(e) },
	"reboot":     func() error { return unix.Reboot(0) },
	"kexec_load": func() error {
		_, _, e := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
		return number(e)
	},
	"init_module": func() error { _, _, e := unix.Syscall(unix.SYS_INIT_MODULE, 0, 0, 0); return number(e) },
	"bpf":         func() error { _, _, e := unix.Syscall(unix.SYS_BPF, 0, 0, 0); return number(e) },
	"userfaultfd": func() error { _, _, e := unix.Syscall(unix.SYS_USERFAULTFD, 0, 0, 0); return number(e) },
	"perf_event_open": func() error {
		_, _, e := unix.Syscall6(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&unix.PerfEventAttr{Size: 112})), 0, 0, 0, 0, 0)
		return number(e)
	},
	"open_by_handle_at": func() error {
		_, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, []byte{0}), 0)
		return err
	},
	"io_uring_setup": func() error { _, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); return number(e) },
	"settimeofday":   func() error { return unix.Settimeofday(&unix.Timeval{Sec: -1}) },
}

func number(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "ids" {
		fmt.Println(os.Getuid(), os.Geteuid())
		return
	}
	for _, name := range os.Args[1:] {
		var e unix.Errno
		switch err := attempts[name](); {
		case err == nil:
			fmt.Println(name, "done")
		case errors.As(err, &e):
			fmt.Println(name, unix.ErrnoName(e))
		default:
			fmt.Println(name, err)
		}
	}
}
