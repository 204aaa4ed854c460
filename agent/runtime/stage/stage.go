// Package stage has containers begin with mote-init, a small program, instead of with mote-runtime.
//
// libcontainer runs the program that it is part of once more for every container and every exec. It looks at which path this
// program lies (/proc/self/exe) and takes the file of that name out of a read-only overlay of its directory, so that nothing
// in a container can write to it (CVE-2019-5736). A Go program of the runtime's size takes twice as long to begin as one with
// libcontainer alone: it initialises all that it is made of, and touches twice the pages. So the runtime runs itself again
// from a directory of its own: there lies mote-init under the runtime's name, and the runtime's program is mounted upon it.
// The kernel runs what is mounted; an overlay doesn't look at what is mounted inside its layers (overlayfs.rst), and has mote-init.
//
// Where any of this doesn't work libcontainer runs the runtime's own program, which can be that first step, too.
//
// Reads:  mote-init, beside the program.
// Writes: <run>/stage, a directory with a copy of mote-init and the program mounted upon it.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/version"
)

// variable tells the program on the stage where it was installed.
const variable = "MOTE_RUNTIME_PROGRAM"

// askTime is more than mote-init takes to say its version.
const askTime = 10 * time.Second

// Path is where the runtime runs, and so its name in processes' lists.
func Path(runDir string) string { return filepath.Join(runDir, "stage", "mote-runtime") }

// Entered returns the path of the installed program, and whether this process runs on the stage. Call it before anything is
// started: programs that this one starts must not hear of it.
func Entered() (program string, ok bool) {
	program, ok = os.LookupEnv(variable)
	_ = os.Unsetenv(variable)
	return program, ok
}

// Enter runs program, which is this process's, again on the stage in runDir, with the same arguments, environment and
// inheritable descriptors. It returns only if that can't be done; nothing has changed for the process then.
func Enter(runDir, program string) error {
	first, err := layout.Beside(program, "mote-init")
	if err != nil {
		return err
	}
	if err := sameBuild(first); err != nil {
		return err
	}
	path := Path(runDir)
	if err := Clear(runDir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	if err := copyFile(first, path); err != nil {
		return fmt.Errorf("copy %s to %s: %w", first, path, err)
	}
	if err := unix.Mount(program, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s upon %s: %w", program, path, err)
	}
	env := append(os.Environ(), variable+"="+program)
	err = unix.Exec(path, append([]string{program}, os.Args[1:]...), env)
	return errors.Join(fmt.Errorf("run %s: %w", path, err), Clear(runDir))
}

// Clear takes the mount off the stage. A process that runs there goes on, and begins containers with its own program.
func Clear(runDir string) error { return mounts.Detach(Path(runDir)) }

// sameBuild wants mote-init to be of this program's build: the two talk to each other in whatever way libcontainer does today.
func sameBuild(first string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, first, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", first, err)
	}
	if got := strings.TrimSpace(string(out)); got != version.String() {
		return fmt.Errorf("%s is %q and this is %q: install all of Mote's programs from one release", first, got, version.String())
	}
	return nil
}

// copyFile puts a new file in the place of what is there: containers that begin just now still have that.
func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(to, raw, 0o700)
}
