package image

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrTooBig marks an image that passes one of the limits.
var ErrTooBig = errors.New("image exceeds a limit")

// Limits keep a hostile image from filling the machine.
type Limits struct {
	ImageBytes   int64 `json:"imageBytes,omitempty"`   // unpacked size of all layers of an image; default 64 GiB
	LayerBytes   int64 `json:"layerBytes,omitempty"`   // unpacked size of one layer; default 32 GiB
	FileBytes    int64 `json:"fileBytes,omitempty"`    // size of one file; default 16 GiB
	LayerEntries int   `json:"layerEntries,omitempty"` // files in one layer; default 1,000,000
	Layers       int   `json:"layers,omitempty"`       // layers of one image; default 256
	ConfigBytes  int64 `json:"configBytes,omitempty"`  // size of a config or manifest; default 4 MiB
}

const maxLayers = 500 // overlayfs takes no more

const maxDirs = 200_000 // directories in one layer: each costs memory until the layer is unpacked

func (l Limits) withDefaults() Limits {
	return l.or(Limits{ImageBytes: 64 << 30, LayerBytes: 32 << 30, FileBytes: 16 << 30, ConfigBytes: 4 << 20, LayerEntries: 1_000_000, Layers: 256})
}

// or takes from d what l leaves open.
func (l Limits) or(d Limits) Limits {
	return Limits{
		ImageBytes: cmp.Or(l.ImageBytes, d.ImageBytes), LayerBytes: cmp.Or(l.LayerBytes, d.LayerBytes), FileBytes: cmp.Or(l.FileBytes, d.FileBytes),
		LayerEntries: cmp.Or(l.LayerEntries, d.LayerEntries), Layers: cmp.Or(l.Layers, d.Layers), ConfigBytes: cmp.Or(l.ConfigBytes, d.ConfigBytes),
	}
}

// room fails if writing n more bytes would leave the disk with less than a small reserve: the rest of the node must be
// able to write its records when an image is larger than the disk, or a bomb.
func (s *Store) room(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.cfg.Dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", s.cfg.Dir, err)
	}
	block := int64(st.Bsize) //nolint:unconvert // 32 bits on small machines
	total, free := int64(st.Blocks)*block, int64(st.Bavail)*block
	reserve := min(total/100, 256<<20)
	if free-reserve < n {
		return fmt.Errorf("%w: %s has %d bytes free, %d more are needed and %d stay reserved: remove images or files, or give it a larger disk",
			unix.ENOSPC, s.cfg.Dir, free, n, reserve)
	}
	return nil
}
