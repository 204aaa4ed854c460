// mote-init is the first step of every container: what libcontainer runs inside the container's namespaces before the
// container's own program. It is a program of its own because it begins so often: see agent/runtime/stage.
//
// Reads:  its arguments; see agent/runtime/reexec.
// Writes: what libcontainer sets up; with --version the build, to standard output.
package main

import (
	"fmt"
	"os"

	_ "github.com/mote-edge/mote/agent/runtime/reexec" // a container's first step ends there, before main
	"github.com/mote-edge/mote/internal/version"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println(version.String())
		return
	}
	fmt.Fprintln(os.Stderr, "mote-init: mote-runtime runs this inside of containers; there is nothing to do by hand but --version")
	os.Exit(2)
}
