//go:build cgo && seccomp

// Package seccompcache spares containers the compilation of their seccomp filter, which is a third of the time of a
// start and half of that of an exec: libseccomp needs some 15 ms for the default profile, and libcontainer asks it
// anew every time. The linker leads libcontainer's calls of libseccomp through cache.c, which knows the programs that
// were compiled before, by the exact sequence of calls that describes them.
//
// A child process (this program again, as "seccomp-compile") compiles by running libcontainer's own code, so that the
// sequences agree by construction. When they don't, the filter is compiled as if there were no cache.
//
// Reads:  nothing.
// Writes: Run/seccomp.cache.
package seccompcache

/*
#cgo LDFLAGS: -lseccomp -Wl,--wrap=seccomp_init -Wl,--wrap=seccomp_arch_add -Wl,--wrap=seccomp_attr_set
#cgo LDFLAGS: -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_rule_add_exact_array -Wl,--wrap=seccomp_export_bpf
void mote_seccomp_compile_to(int fd);
*/
import "C"

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"golang.org/x/sys/unix"
)

// Command is the argument with which this program compiles a profile: see Main.
const Command = "seccomp-compile"

// maxProfiles bounds the cache; at the bound it starts anew.
const maxProfiles = 32

// Cache is the file of compiled profiles.
type Cache struct {
	path string

	mu      sync.Mutex
	known   map[[sha256.Size]byte]bool
	entries bytes.Buffer
}

// Open starts with an empty cache at path: what an earlier kernel or program compiled is not trusted. From here on
// every libcontainer init of this process finds it, by its first argument.
func Open(path string) (*Cache, error) {
	c := &Cache{path: path, known: map[[sha256.Size]byte]bool{}}
	if err := c.write(); err != nil {
		return nil, err
	}
	os.Args[0] = "mote-runtime:" + path // libcontainer hands this to its init
	return c, nil
}

func (c *Cache) write() error {
	temporary := c.path + ".tmp"
	if err := os.WriteFile(temporary, c.entries.Bytes(), 0o600); err != nil {
		return fmt.Errorf("seccomp cache: %w", err)
	}
	return os.Rename(temporary, c.path)
}

// Ensure has a profile compiled if it isn't yet. An error costs time only: the container's init then compiles.
func (c *Cache) Ensure(profile *configs.Seccomp) error {
	if profile == nil {
		return nil
	}
	raw, err := json.Marshal(profile)
	if err != nil {
		return err
	}
	key := sha256.Sum256(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[key] {
		return nil
	}
	c.known[key] = true // also when it fails: once is enough
	entry, err := compile(raw)
	if err != nil {
		return fmt.Errorf("compile seccomp profile: %w", err)
	}
	if len(c.known) > maxProfiles {
		c.known = map[[sha256.Size]byte]bool{key: true}
		c.entries.Reset()
	}
	c.entries.Write(entry)
	return c.write()
}

func compile(profile []byte) ([]byte, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	cmd := exec.Command("/proc/self/exe", Command)
	cmd.Stdin, cmd.ExtraFiles = bytes.NewReader(profile), []*os.File{writer}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Start()
	_ = writer.Close()
	if err != nil {
		return nil, err
	}
	entry, readErr := io.ReadAll(reader)
	// The child installed the profile on itself: it may well die of it. What counts is what it wrote before.
	if err := cmd.Wait(); len(entry) == 0 {
		return nil, errors.Join(err, readErr, errors.New(said.String()))
	}
	return entry, readErr
}

// Main is the child's whole program: profile on stdin, cache entry on descriptor 3.
func Main() {
	var profile configs.Seccomp
	if err := json.NewDecoder(os.Stdin).Decode(&profile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	profile.ListenerPath = ""
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	C.mote_seccomp_compile_to(3)
	if _, err := seccomp.InitSeccomp(&profile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
