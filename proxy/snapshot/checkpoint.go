package snapshot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// checkpoint is the snapshot as a file. Names of slices are those of the API objects.
type checkpoint struct {
	Version  int
	Zone     string
	Services []*Service
	Slices   []namedSlice
}

type namedSlice struct {
	Own Name
	*Slice
}

// checkpointVersion changes with the file's shape: a file of another version is ignored.
const checkpointVersion = 1

// Save writes the snapshot to the file at path, in one step. It does nothing until the API server's lists have arrived.
func (s *Store) Save(path string) error {
	c := checkpoint{Version: checkpointVersion}
	s.mu.RLock()
	complete := len(s.pending) == 0
	c.Zone = s.zone
	for _, v := range s.services {
		c.Services = append(c.Services, v)
	}
	for own, v := range s.slices {
		c.Slices = append(c.Slices, namedSlice{own, v})
	}
	s.mu.RUnlock()
	if !complete {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("save services: %w", err)
	}
	next := path + ".tmp"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save services: %w", err)
	}
	w := bufio.NewWriter(f)
	err = errors.Join(json.NewEncoder(w).Encode(c), w.Flush(), f.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next) // a full disk leaves half of it
		return fmt.Errorf("save services: %w", err)
	}
	return nil
}

// Load fills an empty store from a file that Save wrote, so that names and rules work before the API server is reached.
// Its first lists replace what was loaded. It returns whether there was anything: a file that is not there, damaged or of
// another version is as good as none.
func (s *Store) Load(path string) (bool, error) {
	_ = os.Remove(path + ".tmp") // a write that a crash cut off
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("load services: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(b, &c); err != nil {
		return false, fmt.Errorf("load services: %s: %w: it will be written anew", path, err)
	}
	if c.Version != checkpointVersion {
		return false, nil
	}
	var changed []Name
	s.mu.Lock()
	s.zone = c.Zone
	for _, v := range c.Services {
		if v != nil && s.putService(v) {
			changed = append(changed, v.Name)
		}
	}
	for _, v := range c.Slices {
		if v.Slice != nil {
			changed = append(changed, s.putSlice(v.Own, v.Slice)...)
		}
	}
	s.becomeReady()
	s.mu.Unlock()
	s.notify(changed)
	return true, nil
}
