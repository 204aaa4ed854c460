package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// strays reaps what starts that failed leave behind. The first steps of a start (libcontainer's nsexec) are children of the
// runtime, and libcontainer hears of their pids only when all goes well; after a failure, as when the container ends just
// then, nobody waits for them. One that had entered the container's PID namespace keeps its first process, killed long ago,
// from ending: that one waits until the namespace is empty of zombies, too (pid_namespaces(7)).
type strays struct {
	mu      sync.Mutex
	until   time.Time
	looking bool
}

const (
	strayStep = 250 * time.Millisecond
	// strayTime is how long it is looked for strays after a failure: they die a little later than their start.
	strayTime = 10 * time.Second
)

// look begins to look for strays, or goes on for longer. It doesn't block.
func (s *strays) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Now().Add(strayTime)
	if !s.looking {
		s.looking = true
		go s.run()
	}
}

func (s *strays) run() {
	var last map[strayID]bool
	for {
		now := zombies()
		for id := range now {
			// A start that is under way reaps its own at once; what is still there a step later is nobody's.
			if last[id] {
				_, _ = unix.Wait4(id.pid, nil, unix.WNOHANG, nil)
			}
		}
		last = now
		s.mu.Lock()
		if len(now) == 0 && time.Now().After(s.until) {
			s.looking = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		time.Sleep(strayStep) // children that die send no more than a signal, which doesn't say whose they were
	}
}

type strayID struct {
	pid   int
	start string // time, so that a pid that is used again isn't taken for the same
}

// zombies are the dead children of this process that are steps of a start.
func zombies() map[strayID]bool {
	out := map[strayID]bool{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // not every kernel lists a process's children
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if id, ok := strayOf(string(raw), os.Getpid()); ok {
			out[id] = true
		}
	}
	return out
}

// strayOf tells from /proc/<pid>/stat whether a process is a dead step of a start of ours: see proc(5).
func strayOf(stat string, self int) (strayID, bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return strayID{}, false
	}
	fields := strings.Fields(stat[end+1:]) // from the third on
	if !strings.HasPrefix(stat[open+1:end], "runc:[") || len(fields) < 20 || fields[0] != "Z" || fields[1] != strconv.Itoa(self) {
		return strayID{}, false
	}
	id := strayID{start: fields[19]}
	_, err := fmt.Sscan(stat[:open], &id.pid)
	return id, err == nil
}
