package footprint

import "golang.org/x/sys/unix"

// A program that works may let its heap grow by a part of the machine's memory before it collects, for the few seconds that a
// burst lasts: collections are a tenth of the server's processor time while sixty pods start.
const (
	roomPart = 32
	roomMost = 96 << 20
)

// room is by how many bytes the heap may grow on this machine. A memory limit (RespectCgroup) holds it down all the same.
func room() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return min(roomMost, uint64(info.Totalram)*uint64(info.Unit)/roomPart) //nolint:unconvert // narrower on 32-bit machines
}

// percent is what the collector is told while the program works: the given percentage, or what fills the room.
func percent(working int, live, room uint64) int {
	if live == 0 {
		return working
	}
	return int(max(uint64(working), min(room*100/live, 1e6))) // an int may have 32 bits
}

// live is what the last collection found alive, in bytes.
func live() uint64 { return metric("/gc/heap/live:bytes") }
