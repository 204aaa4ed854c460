package logs

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// headerSize precedes the data in a spool file. An empty file means: nothing pending, no header.
const headerSize = 64

// header is the spool's journal.
//
//	pending=false: bytes before consumed are in the log, the rest are not.
//	pending=true:  bytes [consumed, to) were about to be appended to the log with this inode at offset logOffset.
type header struct {
	pending   bool
	consumed  int64
	to        int64
	logInode  uint64
	logOffset int64
	end       bool // the entries were formatted as the stream's last
}

func (h header) encode() []byte {
	raw := make([]byte, headerSize)
	if h.pending {
		raw[0] = 1
	}
	if h.end {
		raw[1] = 1
	}
	binary.LittleEndian.PutUint64(raw[8:], uint64(h.consumed))
	binary.LittleEndian.PutUint64(raw[16:], uint64(h.to))
	binary.LittleEndian.PutUint64(raw[24:], h.logInode)
	binary.LittleEndian.PutUint64(raw[32:], uint64(h.logOffset))
	return raw
}

func decodeHeader(raw []byte) header {
	return header{
		pending:   raw[0] == 1,
		end:       raw[1] == 1,
		consumed:  int64(binary.LittleEndian.Uint64(raw[8:])),
		to:        int64(binary.LittleEndian.Uint64(raw[16:])),
		logInode:  binary.LittleEndian.Uint64(raw[24:]),
		logOffset: int64(binary.LittleEndian.Uint64(raw[32:])),
	}
}

// spool is one stream's file. It is open only while there is something to do.
type spool struct {
	path     string
	fd       int
	size     int64 // data bytes in the file
	consumed int64
}

func (s *spool) open() error {
	fd, err := unix.Open(s.path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open spool %s: %w", s.path, err)
	}
	s.fd = fd
	return nil
}

func (s *spool) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// load reads what an earlier process left and returns its header.
func (s *spool) load() (header, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(s.fd, &stat); err != nil {
		return header{}, fmt.Errorf("stat spool: %w", err)
	}
	if stat.Size < headerSize {
		s.size, s.consumed = 0, 0
		return header{}, nil
	}
	raw := make([]byte, headerSize)
	if _, err := unix.Pread(s.fd, raw, 0); err != nil {
		return header{}, fmt.Errorf("read spool header: %w", err)
	}
	h := decodeHeader(raw)
	s.size = stat.Size - headerSize
	h.consumed = max(0, min(h.consumed, s.size))
	h.to = max(h.consumed, min(h.to, s.size))
	s.consumed = h.consumed
	return h, nil
}

func (s *spool) writeHeader(h header) error {
	if _, err := unix.Pwrite(s.fd, h.encode(), 0); err != nil {
		return fmt.Errorf("write spool header: %w", err)
	}
	return nil
}

// fill moves what the pipe has into the file, inside the kernel.
func (s *spool) fill(source, limit int) (int, error) {
	offset := s.size + headerSize
	for {
		n, err := unix.Splice(source, nil, s.fd, &offset, limit, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			s.size += int64(n)
		}
		return int(n), err
	}
}

// store appends bytes that were read, for sources that can't be spliced.
func (s *spool) store(data []byte) error {
	n, err := unix.Pwrite(s.fd, data, s.size+headerSize)
	if n > 0 {
		s.size += int64(n)
	}
	return err
}

// pending reads the bytes that aren't in the log yet.
func (s *spool) pending(buf []byte) ([]byte, error) {
	want := min(int64(len(buf)), s.size-s.consumed)
	n, err := unix.Pread(s.fd, buf[:want], headerSize+s.consumed)
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	return buf[:n], nil
}

// compactAfter bounds the dead bytes before a partial line.
const compactAfter = 1 << 20

// commit records that bytes up to `to` are in the log.
func (s *spool) commit(to int64) error {
	s.consumed = to
	if s.consumed == s.size {
		s.size, s.consumed = 0, 0
		return unix.Ftruncate(s.fd, 0)
	}
	if err := s.writeHeader(header{consumed: s.consumed}); err != nil {
		return err
	}
	if s.consumed > compactAfter {
		// Whole pages only; offsets stay. The header's page goes with them, so it is written again.
		_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, s.consumed-8192)
	}
	return nil
}
