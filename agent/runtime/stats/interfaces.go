package stats

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Interfaces reads /proc/net/dev as a thread inside the namespace sees it; primary is the pod's own interface.
func Interfaces(netns, primary string) *cri.NetworkUsage {
	result := make(chan []byte, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- nil
			return
		}
		defer unix.Close(fd)
		if unix.Setns(fd, unix.CLONE_NEWNET) != nil {
			result <- nil
			return
		}
		raw, _ := os.ReadFile("/proc/thread-self/net/dev")
		result <- raw
	}()
	raw := <-result
	if raw == nil {
		return nil
	}
	out := &cri.NetworkUsage{Timestamp: time.Now().UnixNano()}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		name, counters, found := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(counters)
		name = strings.TrimSpace(name)
		if !found || len(fields) < 11 || name == "lo" {
			continue
		}
		value := func(i int) *cri.UInt64Value {
			number, _ := strconv.ParseUint(fields[i], 10, 64)
			return &cri.UInt64Value{Value: number}
		}
		// proc(5): bytes packets errs drop fifo frame compressed multicast, for both directions.
		usage := &cri.NetworkInterfaceUsage{Name: name, RxBytes: value(0), RxErrors: value(2), TxBytes: value(8), TxErrors: value(10)}
		if name == primary {
			out.DefaultInterface = usage
		} else {
			out.Interfaces = append(out.Interfaces, usage)
		}
	}
	return out
}
