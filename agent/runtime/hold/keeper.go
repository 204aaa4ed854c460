package hold

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxExits bounds the remembered exit codes; the oldest go first. The runtime asks within seconds of its restart.
const maxExits = 4096

type process struct {
	pid   int
	start uint64
}

// keeper is the state that outlives the runtime.
type keeper struct {
	mu    sync.Mutex
	fds   map[string][]int
	exits map[process]unix.WaitStatus
	order []process
}

func newKeeper() *keeper {
	return &keeper{fds: map[string][]int{}, exits: map[process]unix.WaitStatus{}}
}

func (k *keeper) recordExit(p process, status unix.WaitStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.exits[p]; !known {
		k.order = append(k.order, p)
	}
	k.exits[p] = status
	if len(k.order) > maxExits {
		delete(k.exits, k.order[0])
		k.order = slices.Delete(k.order, 0, 1)
	}
}

// answer handles one request. It owns the descriptors that came with it; those it returns stay the keeper's.
func (k *keeper) answer(request string, fds []int) (string, []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	words := strings.Fields(request)
	if len(words) == 0 {
		closeAll(fds)
		return "error empty request", nil
	}
	if words[0] != "put" {
		closeAll(fds)
	}
	switch {
	case words[0] == "put" && len(words) == 2 && len(fds) > 0:
		closeAll(k.fds[words[1]])
		k.fds[words[1]] = fds
		return "ok", nil
	case words[0] == "get" && len(words) == 2:
		held := k.fds[words[1]]
		if len(held) == 0 {
			return "none", nil
		}
		return "ok", held
	case words[0] == "del" && len(words) == 2:
		closeAll(k.fds[words[1]])
		delete(k.fds, words[1])
		return "ok", nil
	case words[0] == "keys" && len(words) == 2:
		return k.keys(words[1]), nil
	case (words[0] == "exit" || words[0] == "forget") && len(words) == 3:
		return k.exit(words[0], words[1], words[2]), nil
	}
	if words[0] == "put" {
		closeAll(fds)
	}
	return fmt.Sprintf("error unknown request %.40q", words[0]), nil
}

func (k *keeper) keys(offset string) string {
	from, err := strconv.Atoi(offset)
	if err != nil || from < 0 {
		return "error bad offset"
	}
	all := make([]string, 0, len(k.fds))
	for key := range k.fds {
		all = append(all, key)
	}
	slices.Sort(all)
	var reply strings.Builder
	reply.WriteString("ok")
	for _, key := range all[min(from, len(all)):] {
		if reply.Len()+1+len(key) > maxPacket {
			break
		}
		reply.WriteString(" " + key)
	}
	return reply.String()
}

func (k *keeper) exit(verb, pid, start string) string {
	p := process{}
	var err error
	if p.pid, err = strconv.Atoi(pid); err != nil {
		return "error bad pid"
	}
	if p.start, err = strconv.ParseUint(start, 10, 64); err != nil {
		return "error bad start time"
	}
	if verb == "forget" {
		delete(k.exits, p)
		k.order = slices.DeleteFunc(k.order, func(o process) bool { return o == p })
		return "ok"
	}
	status, known := k.exits[p]
	if !known {
		return "none"
	}
	return "ok " + strconv.FormatUint(uint64(status), 10)
}
