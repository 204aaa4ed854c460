package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// ImportAtStart is ImportDir in the background. Until it is done, Pull waits: what is asked for may be in an archive that
// is still being read, and a node at the edge has no registry to ask instead.
func (s *Store) ImportAtStart(ctx context.Context, dir string) {
	s.mu.Lock()
	done := make(chan struct{})
	s.starting = done
	s.mu.Unlock()
	go func() {
		defer close(done)
		if err := s.ImportDir(ctx, dir); err != nil {
			s.log.Error("import archives", "dir", dir, "error", err)
		}
	}()
}

// arrived waits for the import at the start and tells whether it brought an image that was missing.
func (s *Store) arrived(ctx context.Context, ref string) (string, bool) {
	s.mu.RLock()
	starting := s.starting
	s.mu.RUnlock()
	if starting == nil {
		return "", false
	}
	select {
	case <-starting:
		return "", false // long done: a pull is a pull
	default:
	}
	_, missing := s.Get(ref)
	select {
	case <-starting:
	case <-ctx.Done():
		return "", false
	}
	img, err := s.Get(ref)
	return img.ID, missing != nil && err == nil
}

// archiveMark is what is remembered of an archive that was imported, so that the next start needn't read it.
type archiveMark struct {
	Size    int64             `json:"size"`
	ModTime int64             `json:"modTime"` // nanoseconds
	Images  map[string]string `json:"images"`  // reference to ID
}

// ImportDir imports every archive in dir (*.tar, *.tar.gz, *.tgz, *.tar.zst), in name order, but for those that it knows
// already. Their images are pinned as long as the archives are there: who keeps archives has no registry to get them from
// again. A bad archive is logged and skipped: one must not keep the others out. A missing directory is success.
func (s *Store) ImportDir(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("import archives: %w", err)
	}
	known, marks := s.archiveMarks(), map[string]archiveMark{}
	for _, e := range entries {
		name := e.Name()
		if !isArchive(name) {
			continue
		}
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		m, ok := known[name]
		if ok && m.Size == st.Size() && m.ModTime == st.ModTime().UnixNano() && s.haveAll(m.Images) {
			marks[name] = m
			continue
		}
		refs, err := s.ImportFile(ctx, filepath.Join(dir, name))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.log.Error("archive skipped", "error", err)
			continue
		}
		m = archiveMark{Size: st.Size(), ModTime: st.ModTime().UnixNano(), Images: map[string]string{}}
		for _, ref := range refs {
			if img, err := s.Get(ref); err == nil {
				m.Images[ref] = img.ID
			}
		}
		marks[name] = m
		s.log.Info("archive imported", "archive", name, "images", refs)
	}
	pinned := map[string]bool{}
	for _, m := range marks {
		for _, id := range m.Images {
			pinned[id] = true
		}
	}
	if err := s.pin(pinned); err != nil {
		return err
	}
	if reflect.DeepEqual(known, marks) {
		return nil
	}
	data, err := json.Marshal(marks)
	if err != nil {
		return err
	}
	return writeFileAtomic(s.path("archives.json"), data)
}

func isArchive(name string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// archiveMarks reads what was remembered; none if it can't be read: the archives are then read again.
func (s *Store) archiveMarks() map[string]archiveMark {
	marks := map[string]archiveMark{}
	data, err := os.ReadFile(s.path("archives.json"))
	if err == nil && json.Unmarshal(data, &marks) != nil {
		return map[string]archiveMark{}
	}
	return marks
}

// haveAll tells whether each reference still leads to its image.
func (s *Store) haveAll(images map[string]string) bool {
	for ref, id := range images {
		if img, err := s.Get(ref); err != nil || img.ID != id {
			return false
		}
	}
	return len(images) > 0
}

// pin makes these the pinned images, and no others.
func (s *Store) pin(ids map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, img := range s.images {
		if img.Pinned == ids[id] {
			continue
		}
		c := img.clone()
		c.Pinned = ids[id]
		if err := s.write(&c); err != nil {
			return err
		}
		s.images[id] = &c
	}
	return nil
}
