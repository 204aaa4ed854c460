package runtime

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/logs"
)

// container is one container. Lock order: op before mu; neither is held while another container's is taken.
type container struct {
	op      sync.Mutex // one lifecycle call at a time
	journal journal    // its lock comes before mu

	mu      sync.Mutex // guards what follows
	rec     containerRecord
	config  *cri.ContainerConfig // trimmed to what status needs once the container has started
	logPath string
	pump    *logs.Pump
	pidfd   int
	stdin   int   // write end of the stdin pipe, -1 if none
	tty     int   // the terminal's master, -1 if none
	held    []int // what mote-hold keeps copies of, while there is no pump: during the start, and before it is followed again
	exited  chan struct{}
	cleaned chan struct{} // closed when cgroup and mounts of an ended container are gone
}

func newContainer(rec containerRecord, config *cri.ContainerConfig, logPath string) *container {
	return &container{
		rec: rec, config: config, logPath: logPath, pidfd: -1, stdin: -1, tty: -1,
		exited: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

func containerName(c *cri.ContainerConfig, sandboxID string) string {
	return fmt.Sprintf("container %s_%d_%s", c.GetMetadata().GetName(), c.GetMetadata().GetAttempt(), sandboxID)
}

func (c *container) state() state {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.State
}

// descriptors are this process' own copies of what the holder keeps, in the holder's order. They are as they are said until
// thaw is called; a stream that has ended is stood for by an empty one. c.mu is held.
func (c *container) descriptors() (fds []int, thaw func()) {
	if c.pump == nil {
		return slices.Clone(c.held), func() {}
	}
	out, unfreeze := c.pump.Freeze()
	var opened []int
	for i, fd := range out {
		if fd < 0 && (i == 0 || !c.config.Tty) {
			var pipe [2]int // one that nobody writes to; /dev/null can't be waited for
			if unix.Pipe2(pipe[:], unix.O_CLOEXEC) == nil {
				_ = unix.Close(pipe[1])
				out[i] = pipe[0]
				opened = append(opened, pipe[0])
			}
		}
	}
	fds = []int{out[0], out[1], c.stdin, c.pidfd}
	if c.config.Tty {
		fds = []int{out[0], c.pidfd}
	}
	return slices.DeleteFunc(fds, func(fd int) bool { return fd < 0 }), func() {
		unfreeze()
		for _, fd := range opened {
			_ = unix.Close(fd)
		}
	}
}

// handOver is descriptors for the moment at which this process becomes the holder. Whoever holds c.mu may be the one that
// found out and waits for that, so it isn't waited for long.
func (c *container) handOver() (fds []int, thaw func()) {
	unlock := func() {}
	for range 100 {
		if c.mu.TryLock() {
			unlock = c.mu.Unlock
			break
		}
		time.Sleep(time.Millisecond)
	}
	fds, thaw = c.descriptors()
	return fds, func() { thaw(); unlock() }
}

// trim drops what only the start needed.
func (c *container) trim() {
	c.config.Envs, c.config.Command, c.config.Args, c.config.Devices, c.config.CDIDevices = nil, nil, nil, nil, nil
}

func (c *container) criState() cri.ContainerState {
	switch c.rec.State {
	case stateCreated, stateStarting:
		return cri.ContainerState_CONTAINER_CREATED
	case stateRunning:
		return cri.ContainerState_CONTAINER_RUNNING
	case stateExited:
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_UNKNOWN
}

// status is the container as CRI shows it.
func (c *container) status() *cri.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &cri.ContainerStatus{
		Id: c.rec.ID, Metadata: c.config.Metadata, State: c.criState(),
		CreatedAt: c.rec.CreatedAt, StartedAt: c.rec.StartedAt, FinishedAt: c.rec.FinishedAt,
		ExitCode: c.rec.ExitCode, Reason: c.rec.Reason, Message: c.rec.Message,
		Image: c.imageSpec(), ImageRef: c.rec.ImageRef, ImageId: c.rec.ImageID,
		Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts, LogPath: c.logPath,
		StopSignal: criSignal(c.rec.StopSignal),
		User:       &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(c.rec.UID), Gid: int64(c.rec.GID)}},
	}
	for _, gid := range c.rec.Groups {
		out.User.Linux.SupplementalGroups = append(out.User.Linux.SupplementalGroups, int64(gid))
	}
	out.Resources = &cri.ContainerResources{Linux: c.resources()}
	return out
}

// imageSpec is the image as asked for, under its tag. c.mu is held.
func (c *container) imageSpec() *cri.ImageSpec {
	out := proto.CloneOf(c.config.Image)
	if c.rec.ImageName != "" {
		out.Image = c.rec.ImageName
	}
	return out
}

// resources are the limits in force: the configured ones, or the last update. c.mu is held.
func (c *container) resources() *cri.LinuxContainerResources {
	if len(c.rec.Resources) == 0 {
		return c.config.GetLinux().GetResources()
	}
	r := &cri.LinuxContainerResources{}
	if proto.Unmarshal(c.rec.Resources, r) != nil {
		return nil
	}
	return r
}

// criSignal maps a number to CRI's names; CRI counts in the order of its enumeration, not of the kernel's.
func criSignal(number int) cri.Signal {
	name := unix.SignalName(unix.Signal(number))
	if value, known := cri.Signal_value["SIGNAL_"+name]; known {
		return cri.Signal(value)
	}
	switch {
	case number >= 34 && number <= 49:
		return cri.Signal(int32(cri.Signal_SIGNAL_SIGRTMIN) + int32(number-34))
	case number >= 50 && number <= 64:
		return cri.Signal(int32(cri.Signal_SIGNAL_SIGRTMAXMINUS14) + int32(number-50))
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}

// stopSignal picks the pod's choice, else the image's, else SIGTERM.
func stopSignal(asked cri.Signal, image string) (int, error) {
	if asked != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		return signalNumber(strings.TrimPrefix(asked.String(), "SIGNAL_"))
	}
	if image == "" {
		return int(unix.SIGTERM), nil
	}
	return signalNumber(image)
}

func signalNumber(name string) (int, error) {
	var number int
	if _, err := fmt.Sscanf(name, "%d", &number); err == nil && number > 0 && number <= 64 {
		return number, nil
	}
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	switch name { // older names of the same signals
	case "SIGCLD":
		name = "SIGCHLD"
	case "SIGPOLL":
		name = "SIGIO"
	case "SIGIOT":
		name = "SIGABRT"
	}
	if s := unix.SignalNum(name); s != 0 {
		return int(s), nil
	}
	offset := 0
	plain := strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	switch {
	case plain == "SIGRTMIN":
		return 34, nil
	case plain == "SIGRTMAX":
		return 64, nil
	case strings.HasPrefix(plain, "SIGRTMIN+"):
		if _, err := fmt.Sscanf(plain, "SIGRTMIN+%d", &offset); err == nil && 0 <= offset && offset <= 30 {
			return 34 + offset, nil
		}
	case strings.HasPrefix(plain, "SIGRTMAX-"):
		if _, err := fmt.Sscanf(plain, "SIGRTMAX-%d", &offset); err == nil && 0 <= offset && offset <= 30 {
			return 64 - offset, nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q: %w", name, errInvalid)
}
