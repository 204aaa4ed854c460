// Package reexec is the first step of every container: what libcontainer runs for each start and exec, inside the container's
// namespaces. It is mote-init, and where that can't be (package stage) mote-runtime. This package must hardly import anything but
// libcontainer: it is what mote-init is made of, and Go initialises a package as soon as those that it imports are, so that in
// mote-runtime gRPC, the CRI types and the rest are never initialised in such a process.
//
// Reads:  the program's arguments, what libcontainer sent, and what View.Write left beside the container's root.
// Writes: what libcontainer sets up, and the view of the cgroups; it doesn't return when the program was run for this.
package reexec

import (
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts

	"github.com/mote-edge/mote/agent/runtime/reexec/haste"
	_ "github.com/mote-edge/mote/agent/runtime/seccompcache" // libcontainer's calls of libseccomp come there first
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		haste.Restore()
		// libcontainer starts this in the container's root, seen from the host; an exec has none.
		if os.Getenv("_LIBCONTAINER_INITTYPE") == "standard" {
			if err := assemble(".."); err != nil {
				complain(err)
				os.Exit(1)
			}
		}
		libcontainer.Init()
	}
}

// complain says what is wrong in libcontainer's way, for the runtime's log: standard error is the container's.
func complain(err error) {
	if fd, convErr := strconv.Atoi(os.Getenv("_LIBCONTAINER_LOGPIPE")); convErr == nil {
		fmt.Fprintf(os.NewFile(uintptr(fd), "log"), "{\"level\":\"error\",\"msg\":%q}\n", "the container's view of its cgroups: "+err.Error())
	}
}
