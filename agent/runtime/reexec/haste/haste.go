// Package haste makes a container's first step begin sooner. That lives for milliseconds, on one processor, and the Go runtime's
// monitor takes a sixth of them: it wakes every twenty microseconds to look for goroutines that keep the processor from others.
// With more slack of timers (prctl(2), PR_SET_TIMERSLACK) it wakes later; threads inherit the slack of those that start them.
// And the C library's threads share one arena.
//
// The slack is set when libcontainer's nsexec has made the process that becomes the container's, so that this one's default, which
// it inherited, is still that of the runtime. C constructors run in the order in which the linker gets their packages: by breadth,
// from main. That is why package early is imported here and not by package reexec, beside nsenter.
//
// Reads:  the program's arguments.
// Writes: nothing.
package haste

import (
	"golang.org/x/sys/unix"

	_ "github.com/mote-edge/mote/agent/runtime/reexec/haste/early"
)

// Restore gives the calling thread, which becomes the container's program, its default slack back.
func Restore() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
}
