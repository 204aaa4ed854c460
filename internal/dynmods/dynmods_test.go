package dynmods

import (
	"slices"
	"testing"
)

func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		mountinfo string
		path      string
		options   []string
	}{
		"systemd": {
			"25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n26 25 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			"/sys/fs/cgroup",
			[]string{"rw", "nsdelegate", "memory_recursiveprot"},
		},
		"hybrid, set": {
			"30 25 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,favordynmods\n",
			"/sys/fs/cgroup/unified",
			[]string{"rw", "favordynmods"},
		},
		// What a container sees of it isn't the place to change the machine's.
		"a part of it": {"31 25 0:25 /kubepods /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n", "", nil},
		"none":         {"25 1 8:1 / / rw,relatime - ext4 /dev/root rw\n", "", nil},
		"a torn line":  {"31 25\n", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			path, options := find(c.mountinfo)
			if path != c.path || !slices.Equal(options, c.options) {
				t.Errorf("find: %q %q, want %q %q", path, options, c.path, c.options)
			}
		})
	}
}

// A machine on which somebody else set the option keeps it.
func TestUndoWithoutRecord(t *testing.T) {
	_, before, err := mounted()
	if err != nil {
		t.Fatal(err)
	}
	if err := Undo(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if _, after, _ := mounted(); !slices.Equal(before, after) {
		t.Errorf("options %q, before %q", after, before)
	}
}
