// Package poll watches many descriptors with one epoll instance and one thread, so that an idle container costs no
// goroutine: its streams and its pidfd are entries here.
//
// Reads:  nothing.
// Writes: nothing.
package poll

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Poller calls back when a descriptor is readable or hung up. Entries are one-shot: after a callback the owner arms
// the descriptor again or removes it.
type Poller struct {
	epfd int
	mu   sync.Mutex
	next uint64
	subs map[uint64]*entry
	ids  map[int]uint64
}

type entry struct {
	fd       int
	callback func()
}

// New opens the epoll instance. Run must be called for callbacks to come.
func New() (*Poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &Poller{epfd: epfd, subs: map[uint64]*entry{}, ids: map[int]uint64{}}, nil
}

const events = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT

// Add watches fd and runs callback in a goroutine of its own when it is readable. Remove must come before close.
func (p *Poller) Add(fd int, callback func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	id := p.next
	p.subs[id] = &entry{fd: fd, callback: callback}
	p.ids[fd] = id
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(id)), Pad: int32(id >> 32)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		delete(p.subs, id)
		delete(p.ids, fd)
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Arm asks for one more callback.
func (p *Poller) Arm(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, known := p.ids[fd]
	if !known {
		return nil
	}
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(id)), Pad: int32(id >> 32)}
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_MOD, fd, &event)
}

// Remove stops watching; a callback that has begun goes on.
func (p *Poller) Remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, known := p.ids[fd]
	if !known {
		return
	}
	delete(p.ids, fd)
	delete(p.subs, id)
	_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// Run dispatches for the life of the process.
func (p *Poller) Run() error {
	batch := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(p.epfd, batch, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll wait: %w", err)
		}
		for _, event := range batch[:n] {
			id := uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
			p.mu.Lock()
			sub := p.subs[id]
			p.mu.Unlock()
			if sub != nil {
				go sub.callback()
			}
		}
	}
}
