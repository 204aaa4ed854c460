package logs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options choose what of a log is read. They have the meaning of the API's PodLogOptions.
type Options struct {
	Follow     bool
	Timestamps bool
	Since      time.Time // zero: from the beginning
	Tail       int64     // last lines; negative: all
	Limit      int64     // bytes; 0: no limit
	Stdout     bool
	Stderr     bool
	// Running tells whether the container may still write. A follower ends when it doesn't and everything is read.
	Running func() bool
}

// errLimit ends a read at its limit.
var errLimit = errors.New("limit reached")

// Read writes a log's text to out. With Follow it goes on until the container has ended, ctx ends or out fails; a
// rotation in between loses and repeats nothing. flush is called whenever everything read so far has been written.
func Read(ctx context.Context, path string, o Options, out io.Writer, flush func()) error {
	f, err := os.Open(path)
	for try := 0; errors.Is(err, os.ErrNotExist) && try < 10 && ctx.Err() == nil; try++ {
		time.Sleep(10 * time.Millisecond) // between the two halves of a rotation there is no file
		f, err = os.Open(path)
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = f.Close() }()
	r := &reader{ctx: ctx, path: path, opt: o, out: bufio.NewWriterSize(out, 16<<10), flush: flush}
	if o.Tail >= 0 {
		start, err := tailStart(f, o.Tail)
		if err != nil {
			return fmt.Errorf("find the last %d lines: %w", o.Tail, err)
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	if !o.Follow {
		err = r.drain(f)
	} else {
		err = r.follow(&f)
	}
	if err == nil || errors.Is(err, errLimit) {
		return r.sync()
	}
	return err
}

// reader turns one log into text.
type reader struct {
	ctx     context.Context // of one Read call
	path    string
	opt     Options
	out     *bufio.Writer
	flush   func()
	written int64
	midline bool   // the last record of a stream was partial
	rest    []byte // a line that has no end yet
	buf     [32 << 10]byte
}

func (r *reader) sync() error {
	if err := r.out.Flush(); err != nil {
		return err
	}
	r.flush()
	return nil
}

// drain writes everything up to the present end of f.
func (r *reader) drain(f *os.File) error {
	for {
		if err := r.ctx.Err(); err != nil {
			return nil
		}
		n, err := f.Read(r.buf[:])
		chunk := r.buf[:n]
		for len(chunk) > 0 {
			end := indexNewline(chunk)
			if end < 0 {
				r.rest = append(r.rest, chunk...)
				break
			}
			line := chunk[:end+1]
			if len(r.rest) > 0 {
				r.rest = append(r.rest, line...)
				line = r.rest
			}
			if err := r.line(line); err != nil {
				return err
			}
			r.rest = r.rest[:0]
			chunk = chunk[end+1:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}

func indexNewline(b []byte) int {
	for i, c := range b {
		if c == '\n' {
			return i
		}
	}
	return -1
}

// line writes one record. A line that isn't in the CRI format (a disk that was full cut it) is left out.
func (r *reader) line(line []byte) error {
	rec, err := parse(line)
	if err != nil {
		return nil
	}
	if rec.stream == "stdout" && !r.opt.Stdout || rec.stream == "stderr" && !r.opt.Stderr || rec.at.Before(r.opt.Since) {
		return nil
	}
	if r.opt.Timestamps && !r.midline {
		const fixed = "2006-01-02T15:04:05.000000000Z07:00 "
		if err := r.write(rec.at.AppendFormat(nil, fixed)); err != nil {
			return err
		}
	}
	if err := r.write(rec.text); err != nil {
		return err
	}
	if r.midline = rec.partial; rec.partial {
		return nil
	}
	return r.write([]byte("\n"))
}

func (r *reader) write(b []byte) error {
	if r.opt.Limit > 0 && int64(len(b)) >= r.opt.Limit-r.written {
		b = b[:r.opt.Limit-r.written]
		if _, err := r.out.Write(b); err != nil {
			return err
		}
		return errLimit
	}
	n, err := r.out.Write(b)
	r.written += int64(n)
	return err
}

// tailStart finds where the last n lines of a file begin, reading it backwards in blocks.
func tailStart(f *os.File, n int64) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	var buf [16 << 10]byte
	var lines int64
	for at := end; at > 0; {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			// The newline that ends the file ends the last line; the one before it begins that line.
			if buf[i] == '\n' && at+i+1 < end {
				if lines++; lines == n {
					return at + i + 1, nil
				}
			}
		}
	}
	return 0, nil
}
