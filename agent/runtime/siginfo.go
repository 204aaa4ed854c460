package runtime

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childStatus rebuilds a wait status from siginfo: si_code says how it ended, si_status with what.
func childStatus(info *unix.Siginfo) unix.WaitStatus {
	offset := uintptr(12)
	if unsafe.Sizeof(uintptr(0)) == 8 {
		offset = 16
	}
	// struct { pid, uid, status int32 } after the header.
	value := *(*int32)(unsafe.Add(unsafe.Pointer(info), offset+8))
	const exited, killed, dumped = 1, 2, 3 // CLD_*
	switch info.Code {
	case killed:
		return unix.WaitStatus(value & 0x7f)
	case dumped:
		return unix.WaitStatus(value&0x7f | 0x80)
	}
	return unix.WaitStatus((value & 0xff) << 8)
}
