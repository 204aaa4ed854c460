package runtime

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/hold"
)

// pidfdInfo is struct pidfd_info of linux/pidfd.h, as far as its first version goes.
type pidfdInfo struct {
	mask     uint64
	_        [13]uint32
	exitCode int32
}

const (
	pidfdGetInfo  = 0xC040FF0B // _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes
	pidfdInfoExit = 1 << 3
)

// pidfdExit asks how a process ended: the kernel remembers it with the descriptor once the process was reaped, by whomever.
// It is false before that, and on kernels older than 6.15.
func pidfdExit(pidfd int) (unix.WaitStatus, bool) {
	if pidfd < 0 {
		return 0, false
	}
	info := pidfdInfo{mask: pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.exitCode), true
}

// zombieExit reads how a process ended off its zombie, for as long as nobody has reaped it: whoever adopted an orphan may take
// seconds to (and until then its pidfd doesn't tell). The kernel shows the true status to those who may trace the process, and
// 0 to others, so that 0 is the truth only if this process may.
func zombieExit(pid int, start uint64, mayTrace bool) (unix.WaitStatus, bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // from the third on, as proc(5) counts
	if len(fields) < 50 || fields[0] != "Z" || fields[19] != strconv.FormatUint(start, 10) {
		return 0, false
	}
	status, err := strconv.ParseUint(fields[49], 10, 32)
	return unix.WaitStatus(status), err == nil && (status != 0 || mayTrace)
}

// mayTrace tells whether this process may trace all others: it is root with all its rights, and SELinux isn't there to forbid it.
func mayTrace() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return !selinux.GetEnabled() && unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

// openPidfd opens a process, or is -1 if it is gone or its number is another's by now.
func openPidfd(pid int, start uint64) int {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	if now, err := hold.StartTime(pid); err != nil || now != start {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

func isPidfd(fd int) bool {
	to, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err == nil && (to == "anon_inode:[pidfd]" || strings.HasPrefix(to, "pidfd:")) // the latter since Linux 6.9
}
