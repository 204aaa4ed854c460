package footprint

import "golang.org/x/sys/unix"

// roomy is a machine's memory from which on a burst may take more of it, for the few seconds that it lasts.
const roomy = 2 << 30

// Working is the percentage for Breathe of a program that works: twice the given one where there is room. Half of the
// collections of a burst are half of a tenth of the server's processor time.
func Working(percent int) int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return percent
	}
	return working(percent, uint64(info.Totalram)*uint64(info.Unit)) //nolint:unconvert // narrower on 32-bit machines
}

func working(percent int, memory uint64) int {
	if memory >= roomy {
		return 2 * percent
	}
	return percent
}
