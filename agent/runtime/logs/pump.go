package logs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher calls back when a descriptor is readable, once for each Add or Arm.
type Watcher interface {
	Add(fd int, callback func()) error
	Arm(fd int) error
	Remove(fd int)
}

// Config names a container's files.
type Config struct {
	SpoolDir string // on tmpfs, the container's own
	LogPath  string // CRI log file; empty: output is only for attached clients
	Log      *slog.Logger
}

// Pump copies one container's output. All its methods are safe for concurrent use.
type Pump struct {
	cfg   Config
	watch Watcher

	mu     sync.Mutex
	file   *os.File
	stream [2]source
	sinks  map[*Sink]struct{}
	open   int
	done   chan struct{}
	failed bool // the last write failed; said once
}

type source struct {
	fd    int // -1: not there or ended
	spool spool
}

var errClosed = errors.New("the container's log is closed")

// buffers holds scratch memory: idle containers have none.
var (
	buffers = sync.Pool{New: func() any { b := make([]byte, 64*1024+maxLine); return &b }}
	outputs = sync.Pool{New: func() any { b := make([]byte, 0, 96*1024); return &b }}
)

// New prepares the log file. Start begins to copy.
func New(cfg Config, watch Watcher) (*Pump, error) {
	p := &Pump{cfg: cfg, watch: watch, done: make(chan struct{})}
	for i := range p.stream {
		p.stream[i] = source{fd: -1, spool: spool{fd: -1, path: filepath.Join(cfg.SpoolDir, Stream(i).String()+".spool")}}
	}
	if err := os.MkdirAll(cfg.SpoolDir, 0o700); err != nil {
		return nil, fmt.Errorf("spool directory: %w", err)
	}
	if cfg.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(cfg.LogPath), 0o755); err != nil {
			return nil, fmt.Errorf("log directory: %w", err)
		}
		if err := p.reopen(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Start takes ownership of the read ends (-1: absent), settles what an earlier process left in the spools, and
// copies until both streams end.
func (p *Pump) Start(fds [2]int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fd := range fds {
		if err := p.recover(Stream(i)); err != nil {
			p.cfg.Log.Warn("recover spooled output", "stream", Stream(i).String(), "err", err)
		}
		if fd < 0 {
			continue
		}
		p.stream[i].fd = fd
		p.open++
	}
	if p.open == 0 {
		p.closeLocked()
		return nil
	}
	for i, fd := range fds {
		if fd < 0 {
			continue
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("set %s non-blocking: %w", Stream(i), err)
		}
		if err := p.watch.Add(fd, func() { p.drain(Stream(i)) }); err != nil {
			return err
		}
	}
	return nil
}

// Done is closed when both streams have ended and all is written.
func (p *Pump) Done() <-chan struct{} { return p.done }

// Finish reads what is still there without waiting for the writers to close, then ends: the container is dead.
func (p *Pump) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.stream {
		if p.stream[i].fd >= 0 {
			_, _ = p.copyLocked(Stream(i)) // the container is dead: what can't be read now never will be
			p.endLocked(Stream(i))
		}
	}
}

// Freeze stops all copying and returns the read ends as they are, -1 for one that has ended, until thaw is called: the
// process is about to hand them on.
func (p *Pump) Freeze() (fds [2]int, thaw func()) {
	p.mu.Lock()
	return [2]int{p.stream[Stdout].fd, p.stream[Stderr].fd}, p.mu.Unlock
}

// Reopen opens the log file's path again, after the kubelet moved the old one away.
func (p *Pump) Reopen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.LogPath == "" {
		return nil
	}
	select {
	case <-p.done:
		return errClosed
	default:
	}
	return p.reopen()
}

func (p *Pump) reopen() error {
	file, err := os.OpenFile(p.cfg.LogPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	if p.file != nil {
		_ = p.file.Close()
	}
	p.file = file
	return nil
}

// rounds bounds the work of one callback, so that a chatty container yields to Reopen and attach.
const rounds = 32

func (p *Pump) drain(stream Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.stream[stream]
	if s.fd < 0 {
		return
	}
	ended, err := p.copyLocked(stream)
	if err != nil {
		if !p.failed {
			p.cfg.Log.Error("write container log; the container's output waits", "path", p.cfg.LogPath, "err", err)
			p.failed = true
		}
		time.AfterFunc(time.Second, func() { p.drain(stream) })
		return
	}
	p.failed = false
	if ended {
		p.endLocked(stream)
		return
	}
	if err := p.watch.Arm(s.fd); err != nil {
		p.cfg.Log.Error("watch container output", "err", err)
	}
}

// copyLocked moves what is there; true at the end of the stream.
func (p *Pump) copyLocked(stream Stream) (bool, error) {
	s := &p.stream[stream]
	if err := s.spool.open(); err != nil {
		return false, err
	}
	defer s.spool.close()
	if s.spool.size > s.spool.consumed {
		if err := p.flush(stream, false); err != nil {
			return false, err
		}
	}
	for range rounds {
		before := s.spool.size
		n, err := s.spool.fill(s.fd, 64*1024)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC):
			var ended bool
			if ended, err = p.readDirect(stream); ended || errors.Is(err, unix.EAGAIN) {
				return ended, nil
			}
			if err != nil {
				return false, err
			}
		case errors.Is(err, unix.EIO): // a terminal whose last user is gone
			return true, nil
		case err != nil:
			return false, fmt.Errorf("read %s: %w", stream, err)
		case n == 0:
			return true, nil
		default:
			p.tell(stream, before)
		}
		if err := p.flush(stream, false); err != nil {
			return false, err
		}
	}
	return false, nil
}

// readDirect is for terminals, and for a full tmpfs.
func (p *Pump) readDirect(stream Stream) (bool, error) {
	s := &p.stream[stream]
	scratch := buffers.Get().(*[]byte)
	defer buffers.Put(scratch)
	n, err := unix.Read(s.fd, (*scratch)[:16*1024])
	switch {
	case err == unix.EIO || (err == nil && n == 0):
		return true, nil
	case err != nil:
		return false, err
	}
	before := s.spool.size
	if err := s.spool.store((*scratch)[:n]); err != nil {
		// Memory is full: past the spool into the log, at worst as a partial entry.
		p.broadcast(stream, (*scratch)[:n])
		if p.file != nil {
			_, err := p.file.Write(appendEntries(nil, (*scratch)[:n], stream, time.Now()))
			return false, err
		}
		return false, nil
	}
	p.tell(stream, before)
	return false, nil
}

// flush appends complete lines from the spool to the log.
func (p *Pump) flush(stream Stream, end bool) error {
	sp := &p.stream[stream].spool
	scratch := buffers.Get().(*[]byte)
	defer buffers.Put(scratch)
	for {
		data, err := sp.pending(*scratch)
		if err != nil {
			return err
		}
		last := end && sp.consumed+int64(len(data)) == sp.size
		length := complete(data, last)
		if length == 0 {
			return nil
		}
		if err := p.write(stream, data[:length], last); err != nil {
			return err
		}
	}
}

func (p *Pump) write(stream Stream, data []byte, end bool) error {
	sp := &p.stream[stream].spool
	to := sp.consumed + int64(len(data))
	if p.file == nil {
		return sp.commit(to)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.file.Fd()), &stat); err != nil {
		return fmt.Errorf("stat log: %w", err)
	}
	err := sp.writeHeader(header{pending: true, consumed: sp.consumed, to: to, logInode: stat.Ino, logOffset: stat.Size, end: end})
	if err != nil {
		return err
	}
	out := outputs.Get().(*[]byte)
	defer outputs.Put(out)
	*out = appendEntries((*out)[:0], data, stream, time.Now())
	if _, err := p.file.Write(*out); err != nil {
		_ = p.file.Truncate(stat.Size)
		return err
	}
	return sp.commit(to)
}

// recover settles an append that an earlier process may or may not have finished.
func (p *Pump) recover(stream Stream) error {
	sp := &p.stream[stream].spool
	if _, err := os.Stat(sp.path); err != nil {
		return nil
	}
	if err := sp.open(); err != nil {
		return err
	}
	defer sp.close()
	h, err := sp.load()
	if err != nil || sp.size == 0 || !h.pending || p.file == nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Ino != h.logInode || stat.Size <= h.logOffset {
		return nil // moved away or not begun: append again
	}
	data := make([]byte, h.to-h.consumed)
	if _, err := unix.Pread(sp.fd, data, headerSize+h.consumed); err != nil {
		return err
	}
	length := int64(len(appendEntries(nil, data, stream, time.Now())))
	if stat.Size >= h.logOffset+length {
		return sp.commit(h.to)
	}
	return p.file.Truncate(h.logOffset)
}

func (p *Pump) endLocked(stream Stream) {
	s := &p.stream[stream]
	p.watch.Remove(s.fd)
	_ = unix.Close(s.fd)
	s.fd = -1
	if err := s.spool.open(); err == nil {
		if err := p.flush(stream, true); err != nil {
			p.cfg.Log.Error("write the end of a container log", "path", p.cfg.LogPath, "err", err)
		}
		s.spool.close()
		_ = os.Remove(s.spool.path)
	}
	p.open--
	if p.open == 0 {
		p.closeLocked()
	}
}

func (p *Pump) closeLocked() {
	for sink := range p.sinks {
		sink.end()
	}
	p.sinks = nil
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
	close(p.done)
}

var _ io.Closer = (*Sink)(nil)
