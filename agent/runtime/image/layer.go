package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// layerInfo is kept beside a layer's files.
type layerInfo struct {
	Bytes   int64 `json:"bytes"`
	Entries int   `json:"entries"`
	// Tree is the digest of names, types, modes, owners, sizes and link targets; see fingerprint.
	Tree string `json:"tree"`
	// Boot is the boot in which the layer was unpacked: after a power cut in the same boot its content is read again.
	Boot string `json:"boot"`
}

func (s *Store) layerDir(diffID string) string {
	return s.path("layers", strings.TrimPrefix(diffID, "sha256:"))
}

func (s *Store) haveLayer(diffID string) bool {
	_, err := os.Stat(filepath.Join(s.layerDir(diffID), "layer.json"))
	return err == nil
}

func (s *Store) layerInfo(diffID string) (layerInfo, error) {
	var info layerInfo
	data, err := os.ReadFile(filepath.Join(s.layerDir(diffID), "layer.json"))
	if err != nil {
		return info, fmt.Errorf("layer %s: %w", diffID, err)
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return info, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return info, nil
}

// layerSource is one layer as an archive or a registry has it. open yields the blob as stored (compressed or not) and is
// called at most once, if the store lacks the layer; unpacked is called when the blob is no longer needed.
type layerSource struct {
	open     func(context.Context) (io.ReadCloser, error)
	unpacked func()
}

// addLayer unpacks a layer unless the store has it. The content must hash to diffID after decompression, or nothing is
// kept. Two callers with the same layer unpack it once. below are the diff IDs of the layers under it, lowest first:
// a directory that the layer goes through without describing it looks as it does there.
func (s *Store) addLayer(ctx context.Context, diffID string, below []string, src layerSource) error {
	want, err := digest.Parse(diffID)
	if err != nil || want.Algorithm() != digest.SHA256 {
		return fmt.Errorf("layer diff ID %q is not a sha256 digest", diffID)
	}
	defer s.layerMu.lock(diffID)()
	if s.haveLayer(diffID) {
		return nil
	}
	blob, err := src.open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	select { // decompressors and the disk: two at a time are as fast as many, and take less memory
	case s.unpacks <- struct{}{}:
		defer func() { <-s.unpacks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	defer os.RemoveAll(tmp) // nothing is left of it after the rename
	info, err := s.unpackInto(ctx, tmp, want, below, blob)
	if err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	s.unpacked.Add(1)
	if src.unpacked != nil { // before the sync, so that a blob of the page cache never reaches the disk
		src.unpacked()
	}
	if err := s.commitLayer(tmp, diffID, info); err != nil {
		return fmt.Errorf("commit layer %s: %w", diffID, err)
	}
	return nil
}

// unpackInto fills tmp/fs and tmp/sums.
func (s *Store) unpackInto(ctx context.Context, tmp string, want digest.Digest, below []string, blob io.Reader) (layerInfo, error) {
	fsDir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(fsDir, 0o755); err != nil {
		return layerInfo{}, err
	}
	sums, err := os.OpenFile(filepath.Join(tmp, "sums"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return layerInfo{}, err
	}
	defer sums.Close()
	lower, err := s.lower(below)
	if err != nil {
		return layerInfo{}, err
	}
	plain, err := decompress(&contextReader{ctx: ctx, r: blob}, &s.decoders)
	if err != nil {
		return layerInfo{}, err
	}
	defer plain.Close()
	verifier := want.Verifier()
	tee := io.TeeReader(plain, verifier)
	out := bufio.NewWriterSize(sums, 16<<10)
	info, err := unpack(tee, fsDir, unpackOptions{limits: s.cfg.Limits, lower: lower, sums: out, room: s.room})
	if err != nil {
		return info, err
	}
	// Padding after the archive's end belongs to the digest; endless padding is a bomb.
	if n, err := io.Copy(io.Discard, io.LimitReader(tee, maxPadding+1)); err != nil {
		return info, err
	} else if n > maxPadding {
		return info, fmt.Errorf("%w: more than %d bytes follow the archive's end", ErrUnsafeLayer, maxPadding)
	}
	if !verifier.Verified() {
		return info, fmt.Errorf("the content does not match its digest: fetch or export the image again")
	}
	if err := out.Flush(); err != nil {
		return info, err
	}
	info.Tree, err = fingerprint(fsDir, nil)
	info.Boot = s.cfg.BootID
	return info, err
}

const maxPadding = 1 << 20 // tar programs pad to 10 KiB, some to a tape's block

// commitLayer makes an unpacked layer durable, and only then present.
func (s *Store) commitLayer(tmp, diffID string, info layerInfo) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "layer.json"), data, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o700); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	err = os.Rename(tmp, s.layerDir(diffID))
	if errors.Is(err, os.ErrExist) { // remains of a damaged one
		gone, merr := s.moveLayer(filepath.Base(s.layerDir(diffID)))
		if merr != nil {
			return merr
		}
		defer os.RemoveAll(gone)
		err = os.Rename(tmp, s.layerDir(diffID))
	}
	if err != nil {
		return err
	}
	return syncDir(s.path("layers"))
}

// contextReader stops a long copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
