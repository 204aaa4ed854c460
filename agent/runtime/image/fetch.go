package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	// A download that breaks off goes on where it was; after so many failures without worthwhile progress it is given up.
	fetchTries    = 6
	fetchProgress = 256 << 10
	firstWait     = 200 * time.Millisecond
	longestWait   = 10 * time.Second
	stall         = 60 * time.Second // without a byte: the connection is dead
	partialLife   = 7 * 24 * time.Hour
)

var (
	// errMismatch is content that isn't what its digest says.
	errMismatch = errors.New("the registry sent content that does not match its digest")
	// errStartOver is an answer that doesn't continue what is there.
	errStartOver = errors.New("the registry did not continue the download")
)

func (s *Store) blobPath(d digest.Digest) string {
	return s.path("blobs", d.Algorithm().String()+"-"+d.Encoded())
}

// fetch brings a blob into the store, verified, and returns it open at its beginning. What an earlier attempt left, of
// this run or one before, is continued. The file stays until dropBlob.
func (s *Store) fetch(ctx context.Context, r *repository, desc ocispec.Descriptor) (*os.File, error) {
	defer s.blobMu.lock(desc.Digest.String())()
	select {
	case s.downloads <- struct{}{}:
		defer func() { <-s.downloads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := os.OpenFile(s.blobPath(desc.Digest), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	d := &download{store: s, from: r, desc: desc, f: f}
	err = d.run(ctx)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	// A full disk needs the space more than the next attempt needs the head start.
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, errMismatch) || d.size == 0 {
		s.dropBlob(desc.Digest)
	}
	return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
}

func (s *Store) dropBlob(d digest.Digest) {
	if err := os.Remove(s.blobPath(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("blob not removed", "blob", d, "error", err)
	}
}

// dropOld removes blobs and layers of pulls that nobody came back for.
func (s *Store) dropOld() error {
	entries, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		return fmt.Errorf("read the blobs: %w", err)
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > partialLife {
			os.Remove(s.path("blobs", e.Name()))
		}
	}
	gone, err := s.collectLayers(partialLife)
	for _, dir := range gone {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// download is one blob on its way into a file.
type download struct {
	store *Store
	from  *repository
	desc  ocispec.Descriptor
	f     *os.File
	size  int64 // bytes in the file
	hash  digest.Digester
	old   bool // the file's beginning is not of this run, and was never verified
}

func (d *download) run(ctx context.Context) error {
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	if err := d.begin(ctx, st.Size()); err != nil {
		return err
	}
	if err := d.store.room(d.desc.Size - d.size); err != nil {
		return err
	}
	failures, restarts, mark := 0, 0, d.size
	for {
		err := error(nil)
		if d.size < d.desc.Size {
			err = d.attempt(ctx)
		}
		if err == nil {
			if d.hash.Digest() == d.desc.Digest {
				return nil
			}
			// What was kept may be of a disk that lost it: that costs one more download. A fresh one is the registry's fault.
			if err = errMismatch; !d.old {
				return err
			}
		}
		if errors.Is(err, errStartOver) || errors.Is(err, errMismatch) {
			if restarts++; restarts > 2 || errors.Is(err, errMismatch) && !d.old {
				return err
			}
			d.store.log.Warn("download starts over", "blob", d.desc.Digest, "reason", err)
			if err := d.begin(ctx, 0); err != nil {
				return err
			}
			mark = 0
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !transient(err) {
			return err
		}
		if d.size-mark >= fetchProgress {
			failures, mark = 0, d.size
		}
		if failures++; failures >= fetchTries {
			return err
		}
		d.store.log.Info("download broke off, to be continued", "blob", d.desc.Digest, "at", d.size, "of", d.desc.Size, "error", err)
		if err := pause(ctx, failures); err != nil {
			return err
		}
	}
}

// begin takes the file's first size bytes as they are and hashes them.
func (d *download) begin(ctx context.Context, size int64) error {
	if size > d.desc.Size {
		size = 0
	}
	d.hash, d.size, d.old = d.desc.Digest.Algorithm().Digester(), size, size > 0
	if err := d.f.Truncate(size); err != nil {
		return err
	}
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(d.hash.Hash(), &contextReader{ctx: ctx, r: d.f})
	return err
}

// attempt asks once for what is missing.
func (d *download) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	header, allowed := http.Header{}, []int{http.StatusOK}
	if d.size > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", d.size, d.desc.Size-1))
		allowed = append(allowed, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	resp, err := d.from.get(ctx, "blobs/"+d.desc.Digest.String(), header, allowed...)
	if err != nil {
		return stalled(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case d.size == 0:
	case resp.StatusCode == http.StatusOK: // it doesn't do ranges: this is the whole, from its beginning
		if err := d.begin(ctx, 0); err != nil {
			return err
		}
	case resp.StatusCode != http.StatusPartialContent:
		return fmt.Errorf("%w: it answers %s", errStartOver, resp.Status)
	default:
		if err := checkRange(resp.Header.Get("Content-Range"), d.size, d.desc.Size); err != nil {
			return err
		}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != d.desc.Size-d.size {
		return fmt.Errorf("%w: it has %d bytes and the manifest says %d", errMismatch, d.size+resp.ContentLength, d.desc.Size)
	}
	return stalled(ctx, d.take(resp.Body, watch))
}

// take appends a body to the file.
func (d *download) take(body io.Reader, watch *time.Timer) error {
	buf := make([]byte, 64<<10)
	asked := d.size
	for {
		n, rerr := body.Read(buf[:min(int64(len(buf)), d.desc.Size-d.size)]) // what follows is of no interest
		if n > 0 {
			watch.Reset(stall)
			if d.size >= asked {
				if err := d.store.room(roomStep); err != nil {
					return err
				}
				asked = d.size + roomStep
			}
			if _, err := d.f.WriteAt(buf[:n], d.size); err != nil {
				return err
			}
			_, _ = d.hash.Hash().Write(buf[:n])
			d.size += int64(n)
		}
		switch {
		case d.size == d.desc.Size:
			return nil
		case rerr == io.EOF:
			return io.ErrUnexpectedEOF
		case rerr != nil:
			return rerr
		}
	}
}

// checkRange compares a Content-Range with what was asked for (RFC 9110, section 14.4).
func checkRange(header string, from, size int64) error {
	bad := fmt.Errorf("%w: asked for bytes %d to %d of %d, it sends %.60q", errStartOver, from, size-1, size, header)
	spec, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return bad
	}
	span, total, ok := strings.Cut(spec, "/")
	if !ok {
		return bad
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return bad
	}
	a, err1 := strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(last, 10, 64)
	if err1 != nil || err2 != nil || a != from || b != size-1 {
		return bad
	}
	if total != "*" {
		if n, err := strconv.ParseInt(total, 10, 64); err != nil || n != size {
			return bad // another blob than the one that we have the beginning of
		}
	}
	return nil
}

var errStalled = errors.New("no data for a minute")

func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// transient tells whether it makes sense to try again.
func transient(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return false // the transport has tried several times
	}
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errStalled) || errors.As(err, &op) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || timeout(err)
}

func timeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// pause waits before the next attempt: longer each time, and not in step with other nodes.
func pause(ctx context.Context, failures int) error {
	wait := min(firstWait<<(failures-1), longestWait)
	t := time.NewTimer(wait/2 + rand.N(wait/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
