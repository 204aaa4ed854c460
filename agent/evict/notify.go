package evict

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// notes are the kernel's notifications that memory might be short.
//
// Pressure stall information (both cgroup versions) tells when tasks wait for memory. On cgroup v1 the root group's usage
// has thresholds too: armed at what is used now and what may still be used, it tells when that is gone, before anybody
// has to wait. Both are files to poll; they are put into one epoll file, which the Go runtime polls along with everything
// else, so that no thread waits for them.
type notes struct {
	epoll  *os.File
	fd     int    // of epoll
	stall  int    // file of the pressure, -1 if there is none
	armed  int    // eventfd of the v1 threshold, -1 before the first
	memory string // the v1 memory hierarchy's mount, or ""
	wake   chan struct{}
}

// stall is some task waiting for memory for 200 ms of 2 s. The kernel lets everybody ask for whole multiples of 2 s,
// shorter windows only those with CAP_SYS_RESOURCE.
const stall = "some 200000 2000000"

// minStep keeps a threshold from being armed so close that page cache alone would cross it all the time.
const minStep = 16 << 20

// listen opens what there is. What the kernel lacks is left out: the timer remains.
func listen(pressure, memory string) (*notes, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	n := &notes{epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, stall: -1, armed: -1, memory: memory, wake: make(chan struct{}, 1)}
	if n.stall, err = unix.Open(pressure, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return n, fmt.Errorf("no notification of memory pressure: %s: %w", pressure, err)
	}
	if _, err := unix.Write(n.stall, append([]byte(stall), 0)); err != nil {
		return n, fmt.Errorf("no notification of memory pressure: %s: %w", pressure, err)
	}
	return n, n.add(n.stall, unix.EPOLLPRI)
}

func (n *notes) add(fd int, events uint32) error {
	return unix.EpollCtl(n.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)})
}

// run passes notifications on until ctx ends.
func (n *notes) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = n.epoll.Close() })
	defer stop()
	raw, err := n.epoll.SyscallConn()
	if err != nil {
		return
	}
	var events [4]unix.EpollEvent
	for ctx.Err() == nil {
		// That the file became readable is the notification: asking it a second time may find nothing, for a pressure
		// event counts as read once it has been polled.
		asked := false
		err := raw.Read(func(fd uintptr) bool {
			got, err := unix.EpollWait(int(fd), events[:], 0)
			again := asked
			asked = true
			return again || got > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil {
			return // closed
		}
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// arm asks to be told when another room bytes are used. The threshold before goes.
func (n *notes) arm(room int64) error {
	if n.memory == "" {
		return nil
	}
	used, err := os.ReadFile(filepath.Join(n.memory, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	var bytes int64
	if _, err := fmt.Sscan(string(used), &bytes); err != nil {
		return err
	}
	usage, err := os.Open(filepath.Join(n.memory, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	defer func() { _ = usage.Close() }()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%d %d %d", fd, usage.Fd(), bytes+max(room, minStep))
	err = write(filepath.Join(n.memory, "cgroup.event_control"), line)
	if err == nil {
		err = n.add(fd, unix.EPOLLIN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("memory threshold: %w", err)
	}
	if n.armed >= 0 {
		_ = unix.Close(n.armed) // which takes its threshold away
	}
	n.armed = fd
	return nil
}

// write writes an existing kernel file.
func write(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

// fired tells whether the threshold was crossed since it was armed, or there is none yet.
func (n *notes) fired() bool {
	if n.armed < 0 {
		return true
	}
	var b [8]byte
	got, err := unix.Read(n.armed, b[:])
	return err == nil && got == 8 && binary.NativeEndian.Uint64(b[:]) > 0
}

func (n *notes) close() {
	_ = n.epoll.Close()
	for _, fd := range []int{n.stall, n.armed} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
