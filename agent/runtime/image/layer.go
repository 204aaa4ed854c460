package image

import (
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

// Limits keep a hostile image from filling the machine.
type Limits struct {
	LayerBytes   int64 // unpacked size of one layer; default 32 GiB
	LayerEntries int   // files in one layer; default 2,000,000
	ConfigBytes  int64 // size of a config or manifest; default 4 MiB
}

func (l Limits) withDefaults() Limits {
	if l.LayerBytes == 0 {
		l.LayerBytes = 32 << 30
	}
	if l.LayerEntries == 0 {
		l.LayerEntries = 2_000_000
	}
	if l.ConfigBytes == 0 {
		l.ConfigBytes = 4 << 20
	}
	return l
}

// layerInfo is kept beside a layer's files.
type layerInfo struct {
	Bytes   int64 `json:"bytes"`
	Entries int   `json:"entries"`
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

// addLayer unpacks a layer unless the store has it. open yields the blob as stored (compressed or not) and is called at
// most once; the content must hash to diffID after decompression, or nothing is kept. Two callers with the same layer
// unpack it once.
func (s *Store) addLayer(ctx context.Context, diffID string, open func(context.Context) (io.ReadCloser, error)) error {
	want, err := digest.Parse(diffID)
	if err != nil || want.Algorithm() != digest.SHA256 {
		return fmt.Errorf("layer diff ID %q is not a sha256 digest", diffID)
	}
	defer s.layerMu.lock(diffID)()
	if s.haveLayer(diffID) {
		return nil
	}
	blob, err := open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	tmp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	defer os.RemoveAll(tmp)
	fsDir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(fsDir, 0o755); err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	plain, err := decompress(&contextReader{ctx: ctx, r: blob})
	if err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	defer plain.Close()
	verifier := want.Verifier()
	tee := io.TeeReader(plain, verifier)
	info, err := unpack(tee, fsDir, s.cfg.Limits)
	if err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // padding after the archive's end belongs to the digest
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("layer %s: the content does not match its digest: fetch or export the image again", diffID)
	}
	data, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "layer.json"), data, 0o600); err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	if err := os.Chmod(tmp, 0o700); err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.layerDir(diffID)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("commit layer %s: %w", diffID, err)
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
