package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootMark tells the next Open how this one ended.
type bootMark struct {
	Boot  string `json:"boot"`
	Clean bool   `json:"clean"` // everything was synced, and nothing written since
}

func currentBoot() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// lastBoot returns the boot that ended without a clean shutdown, or "" if there was none: a runtime that dies alone
// loses nothing that the kernel has.
func (s *Store) lastBoot() string {
	data, err := os.ReadFile(s.path("boot.json"))
	if err != nil {
		return "" // a new store
	}
	var m bootMark
	if err := json.Unmarshal(data, &m); err != nil {
		return "unknown"
	}
	if m.Clean || m.Boot == s.cfg.BootID {
		return ""
	}
	return m.Boot
}

func (s *Store) mark(clean bool) error {
	data, err := json.Marshal(bootMark{Boot: s.cfg.BootID, Clean: clean})
	if err != nil {
		return err
	}
	return writeFileAtomic(s.path("boot.json"), data)
}

// begin notes that the store is in use. A full disk doesn't keep it from starting: an empty mark is one that nothing is
// known of, and needs no space.
func (s *Store) begin() error {
	var m bootMark
	if data, err := os.ReadFile(s.path("boot.json")); err == nil && json.Unmarshal(data, &m) == nil && !m.Clean && m.Boot == s.cfg.BootID {
		return nil // as the runtime before this one left it
	}
	err := s.mark(false)
	if errors.Is(err, unix.ENOSPC) {
		if terr := os.Truncate(s.path("boot.json"), 0); terr == nil || errors.Is(terr, os.ErrNotExist) {
			return nil
		}
	}
	return err
}

// Close syncs the store and leaves the mark of a clean end. The store must not be used afterwards.
func (s *Store) Close() error {
	s.removal.Lock() // for good: nothing may be written after the mark
	if err := syncTree(s.cfg.Dir); err != nil {
		return err
	}
	return s.mark(true)
}

// recheck compares every layer with what was unpacked, after the machine went down without notice in the boot "crashed".
// Layers of that boot are read in full; older ones were durable long before, and only their trees are walked. A damaged
// layer is dropped: its images are not loaded then, and come again from their registry or archive.
func (s *Store) recheck(crashed string) error {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return fmt.Errorf("read the layers: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	begin := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	var mu sync.Mutex
	var errs []error
	dropped := 0
	for _, e := range entries {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			dir := s.path("layers", e.Name())
			info, err := s.layerInfo(e.Name())
			if err == nil {
				err = s.verifyLayer(dir, info, info.Boot == crashed || crashed == "unknown")
			}
			if err == nil {
				return
			}
			s.log.Error("layer dropped: it was damaged when the machine went down; its images are fetched or imported again",
				"layer", e.Name(), "error", err)
			gone, derr := s.moveLayer(e.Name())
			if derr == nil {
				derr = os.RemoveAll(gone)
			}
			mu.Lock()
			defer mu.Unlock()
			dropped++
			errs = append(errs, derr)
		})
	}
	wg.Wait()
	s.log.Info("layers checked after an unclean shutdown", "layers", len(entries), "dropped", dropped, "took", time.Since(begin).Round(time.Millisecond))
	return errors.Join(errs...)
}
