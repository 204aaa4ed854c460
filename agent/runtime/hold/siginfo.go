package hold

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childPid reads si_pid: the first word of the union that follows the three header words (and, where pointers have
// eight bytes, one word of padding).
func childPid(info *unix.Siginfo) int {
	type header [3]int32 // si_signo, si_errno, si_code
	offset := unsafe.Sizeof(header{})
	if unsafe.Sizeof(uintptr(0)) == 8 {
		offset += 4
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
