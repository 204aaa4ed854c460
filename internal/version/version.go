// Package version tells which build this is. The Makefile fills the variables in with -ldflags -X.
//
// Reads:  nothing.
// Writes: nothing.
package version

import (
	"fmt"
	"runtime"
)

// Kubernetes is the API version that this build implements.
const Kubernetes = "v1.37.2"

// Set by the linker.
var (
	Version = "0.0.0-dev"
	Commit  = "unknown"
)

// GitVersion is what `kubectl version` and a node's kubeletVersion show: the Kubernetes version, then Mote's.
func GitVersion() string { return Kubernetes + "+mote." + Version }

// String is what `mote version` prints.
func String() string {
	return fmt.Sprintf("mote %s (Kubernetes %s, commit %s, %s %s/%s)", Version, Kubernetes, Commit,
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
