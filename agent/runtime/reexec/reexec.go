// Package reexec is the first step of every container: libcontainer runs the runtime's program again for each start and
// exec, inside the container's namespaces. This package must hardly import anything but libcontainer: Go initialises a
// package as soon as those that it imports are, so that gRPC, the CRI types and the rest of the runtime are never
// initialised in such a process. That takes a millisecond off each start and exec.
//
// Reads:  the program's arguments, and what libcontainer sent.
// Writes: what libcontainer sets up; it doesn't return when the program was run for this.
package reexec

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}
