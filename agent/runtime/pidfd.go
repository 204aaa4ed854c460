package runtime

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

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
