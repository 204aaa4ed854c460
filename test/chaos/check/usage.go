package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Usage is what a process holds that could grow without bound.
type Usage struct {
	FDs, Threads int
	Goroutines   int            // 0: unknown
	Memory       int            // KiB of its own, files not counted
	Kinds        map[string]int // descriptors by what they lead to, without their numbers
}

func (u Usage) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %d KiB", u.FDs, u.Threads, u.Goroutines, u.Memory)
}

// UsageOf looks at a process.
func UsageOf(pid int) (Usage, error) {
	u := Usage{Kinds: map[string]int{}}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil {
			continue
		}
		u.FDs++
		kind, _, _ := strings.Cut(to, ":[")
		u.Kinds[kind]++
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	u.Threads = len(tasks)
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, rest, ok := strings.Cut(string(status), "RssAnon:"); ok {
		_, err = fmt.Sscan(rest, &u.Memory)
	}
	return u, err
}

// memorySlack is what the collector leaves lying about, in KiB.
const memorySlack = 8 << 10

// Grown says in words what is more than before by more than slack.
func (u Usage) Grown(before Usage, slack int) (found []string) {
	if u.FDs > before.FDs+slack {
		var kinds []string
		for kind, n := range u.Kinds {
			if n > before.Kinds[kind] {
				kinds = append(kinds, fmt.Sprintf("%s +%d", kind, n-before.Kinds[kind]))
			}
		}
		found = append(found, fmt.Sprintf("%d descriptors, %d before: %s", u.FDs, before.FDs, strings.Join(kinds, ", ")))
	}
	if u.Threads > before.Threads+24 {
		found = append(found, fmt.Sprintf("%d threads, %d before", u.Threads, before.Threads))
	}
	if u.Goroutines > before.Goroutines+slack {
		found = append(found, fmt.Sprintf("%d goroutines, %d before", u.Goroutines, before.Goroutines))
	}
	if u.Memory > before.Memory+memorySlack {
		found = append(found, fmt.Sprintf("%d KiB of memory, %d before", u.Memory, before.Memory))
	}
	return found
}
