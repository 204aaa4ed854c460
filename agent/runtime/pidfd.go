package runtime

import (
	"unsafe"

	"golang.org/x/sys/unix"
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
