// Package checkpoint keeps small pieces of state in JSON files that are either the old or the new ones after a power cut.
// Each file has one writer, which reads it before it writes.
//
// Reads:  the files that it is given.
// Writes: the files that it is given, through a file beside them.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file with v as JSON, synced.
func Write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("checkpoint %s: %w", path, err)
	}
	if err := write(path, b); err != nil {
		return fmt.Errorf("checkpoint %s: %w", path, err)
	}
	return nil
}

func write(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(beside(path), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // our own file
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// beside is where the next content of a file is written: always the same name, so that what a crash leaves is overwritten.
func beside(path string) string { return path + ".new" }

// Read reads a file into v. It reports whether there is one. What a write that was cut off has left goes.
func Read(path string, v any) (bool, error) {
	_ = os.Remove(beside(path))
	b, err := os.ReadFile(path) //nolint:gosec // our own file
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return true, fmt.Errorf("checkpoint %s: %w", path, err)
	}
	return true, nil
}
