// Package image is the runtime's image store: it takes images from archives and registries, keeps each layer unpacked
// once as an overlayfs lower directory, and mounts a container's root from them.
//
// On disk, below Config.Dir:
//
//	images/<config digest>.json   one record an image: names, config, layers; written atomically
//	layers/<diff ID>/fs           an unpacked layer; renamed into place after its filesystem was synced
//	layers/<diff ID>/{layer.json,sums}   what it held, to check it after a power cut
//	blobs/<algorithm>-<digest>    a layer on its way, perhaps in part: kept over restarts until it is unpacked
//	snapshots/<key>/{upper,work,snapshot.json}   the record of snapshots that are alike is one file with many links
//	points/<set>                  mount points, the lowest layer of the snapshots that mount there
//	boot.json                     how the last run ended
//	archives.json                 which archives were imported at the start
//	tmp/                          work in progress; emptied by Open
//
// A layer directory that exists under its final name is complete: it was verified against its diff ID, synced, and only
// then renamed. After a shutdown without notice it is checked again.
//
// Reads:  archives, registries, registries.yaml.
// Writes: everything below Config.Dir, and the mounts of snapshots.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/internal/imageref"
)

// ErrNotFound is returned for a name or ID that no image in the store has.
var ErrNotFound = errors.New("image not found")

// ErrInUse is returned for a change to something that a mounted snapshot still needs.
var ErrInUse = errors.New("in use")

// Config tells a store where to keep its data.
type Config struct {
	Dir        string       // absolute; created when missing
	Registries string       // path of registries.yaml; may be missing
	Limits     Limits       // zero fields take defaults
	Downloads  int          // blobs fetched at once; default 3
	BootID     string       // empty: the kernel's
	Log        *slog.Logger // nil: slog.Default
}

// Image is what the store knows of one image. ID is the digest of its config ("sha256:…").
type Image struct {
	ID          string        `json:"id"`
	RepoTags    []string      `json:"repoTags,omitempty"`
	RepoDigests []string      `json:"repoDigests,omitempty"`
	DiffIDs     []string      `json:"diffIDs"`
	Size        uint64        `json:"size"` // bytes, unpacked layers and config
	Config      ocispec.Image `json:"config"`
	Pinned      bool          `json:"pinned,omitempty"`
}

// Store is safe for concurrent use.
type Store struct {
	cfg Config
	log *slog.Logger

	mu     sync.RWMutex // guards images and the files of images/
	images map[string]*Image
	// starting is closed when the import at the start is done; nil when there was none.
	starting chan struct{}
	layerMu  keyedMutex // one unpacker a layer
	blobMu   keyedMutex // one download a blob
	removal  sync.RWMutex
	busyMu   sync.Mutex
	busy     map[string]int // layers of images that are being added
	points   pointSets
	alike    alikes // records of snapshots

	downloads, unpacks chan struct{}
	decoders           sync.Pool    // of zstd; collected when nobody unpacks
	adding, unpacked   atomic.Int64 // images being added, and layers unpacked for them
}

// Open opens the store and throws away work that a crash left half done.
func Open(cfg Config) (*Store, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("image store directory %q is not an absolute path", cfg.Dir)
	}
	if regs, err := loadRegistries(cfg.Registries); err == nil { // each pull says what is wrong with it
		cfg.Limits = cfg.Limits.or(regs.Limits)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Downloads <= 0 {
		cfg.Downloads = 3
	}
	if cfg.BootID == "" {
		var err error
		if cfg.BootID, err = currentBoot(); err != nil {
			return nil, err
		}
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, images: map[string]*Image{}, busy: map[string]int{},
		downloads: make(chan struct{}, cfg.Downloads), unpacks: make(chan struct{}, 2),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.emptyTmp(); err != nil {
		return nil, fmt.Errorf("empty the image store's work directory: %w", err)
	}
	for _, d := range []string{"images", "layers", "blobs", "snapshots", "points", "tmp"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("create the image store: %w", err)
		}
	}
	if crashed := s.lastBoot(); crashed != "" {
		if err := s.recheck(crashed); err != nil {
			return nil, err
		}
	}
	if err := s.begin(); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, errors.Join(s.dropOld(), s.sweepPoints(0))
}

// emptyTmp removes half-done work and half-written files. A view of the layers may be mounted in it, left by a runtime that died: deleting
// through it would delete the layers.
func (s *Store) emptyTmp() error {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := errors.Join(mounts.Detach(s.path("tmp", e.Name(), "rootfs")), mounts.Detach(s.path("tmp", e.Name()))); err != nil {
				return err
			}
		}
	}
	half, _ := filepath.Glob(s.path(halfWritten))
	records, _ := filepath.Glob(s.path("images", halfWritten))
	for _, path := range append(half, records...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(s.path("tmp"))
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

// load reads every record. A record that is unreadable or whose layers are missing is set aside, not fatal: the image
// is pulled or imported again.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return fmt.Errorf("read the image store: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := s.path("images", e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the image store: %w", err)
		}
		img := &Image{}
		if err = json.Unmarshal(data, img); err == nil {
			err = s.complete(img)
		}
		if err != nil {
			s.log.Warn("image record set aside: import or pull the image again", "record", path, "error", err)
			if err := os.Rename(path, path+".bad"); err != nil {
				return fmt.Errorf("set image record aside: %w", err)
			}
			continue
		}
		s.images[img.ID] = img
	}
	return nil
}

func (s *Store) complete(img *Image) error {
	if _, err := digest.Parse(img.ID); err != nil {
		return fmt.Errorf("image ID %q: %w", img.ID, err)
	}
	for _, d := range img.DiffIDs {
		if !s.haveLayer(d) {
			return fmt.Errorf("layer %s is missing", d)
		}
	}
	return nil
}

// List returns every image, ordered by ID.
func (s *Store) List() []Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Image, 0, len(s.images))
	for _, img := range s.images {
		out = append(out, img.clone())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

func (img *Image) clone() Image {
	c := *img
	c.RepoTags, c.RepoDigests = slices.Clone(img.RepoTags), slices.Clone(img.RepoDigests)
	return c
}

// Get finds an image by ID ("sha256:…", or its hex alone), tag or digest reference. The error is ErrNotFound if there
// is none, and another one if the reference can't be parsed.
func (s *Store) Get(ref string) (Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	img, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	return img.clone(), nil
}

func (s *Store) find(ref string) (*Image, error) {
	if img, ok := s.images[ref]; ok {
		return img, nil
	}
	if img, ok := s.images["sha256:"+ref]; ok {
		return img, nil
	}
	if strings.HasPrefix(ref, "sha256:") || imageref.IsIdentifier(ref) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
	}
	name, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	for _, img := range s.images {
		if slices.Contains(img.RepoTags, name) || slices.Contains(img.RepoDigests, name) {
			return img, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
}

// Normalize spells a reference out in full: "busybox" becomes "docker.io/library/busybox:latest". A reference with both
// tag and digest keeps the digest alone, as every runtime does.
func Normalize(ref string) (string, error) {
	named, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func parseReference(text string) (imageref.Reference, error) {
	ref, err := imageref.Parse(text)
	if err != nil {
		return ref, fmt.Errorf("image reference %q: %w", text, err)
	}
	return ref, nil
}

// put records an image under a name. A tag that another image had moves over.
func (s *Store) put(img Image, names ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cur, ok := s.images[img.ID]
	if !ok {
		cur = &img
	} else {
		c := cur.clone()
		cur = &c
	}
	for _, n := range names {
		list := &cur.RepoTags
		if strings.Contains(n, "@") {
			list = &cur.RepoDigests
		}
		if !slices.Contains(*list, n) {
			*list = append(*list, n)
		}
	}
	if err := s.write(cur); err != nil {
		return err
	}
	s.images[img.ID] = cur
	for _, other := range s.images {
		if other.ID == img.ID {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(other.RepoTags), func(t string) bool { return slices.Contains(names, t) })
		if len(kept) == len(other.RepoTags) {
			continue
		}
		moved := other.clone()
		moved.RepoTags = kept
		if err := s.write(&moved); err != nil {
			return err
		}
		s.images[moved.ID] = &moved
	}
	return nil
}

func (s *Store) recordPath(id string) string {
	return s.path("images", strings.TrimPrefix(id, "sha256:")+".json")
}

func (s *Store) write(img *Image) error {
	data, err := json.Marshal(img)
	if err != nil {
		return fmt.Errorf("encode image record: %w", err)
	}
	return writeFileAtomic(s.recordPath(img.ID), data)
}

// Remove takes an image away, by ID or by any of its names, with every name it has; layers that no other image or
// snapshot needs go too. An image that isn't there is success.
func (s *Store) Remove(ref string) error {
	gone, err := s.remove(ref)
	for _, dir := range gone { // without the lock: a large layer takes its time, and containers must start meanwhile
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func (s *Store) remove(ref string) (gone []string, err error) {
	s.removal.Lock() // nobody may begin to rely on a layer that is being collected
	defer s.removal.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.find(ref)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.Remove(s.recordPath(img.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove image record: %w", err)
	}
	delete(s.images, img.ID)
	return s.collectLayers(0)
}

// tidy removes layers that nothing refers to, after a pull or import that can't be finished.
func (s *Store) tidy() {
	s.removal.Lock()
	s.mu.Lock()
	gone, err := s.collectLayers(0)
	s.mu.Unlock()
	s.removal.Unlock()
	for _, dir := range gone {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		s.log.Warn("unused layers not removed", "error", err)
	}
}

// hold keeps an image's layers from being collected until the function that it returns is called.
func (s *Store) hold(img ocispec.Image) func() {
	add := func(n int) {
		s.busyMu.Lock()
		defer s.busyMu.Unlock()
		for _, d := range img.RootFS.DiffIDs {
			if s.busy[d.String()] += n; s.busy[d.String()] == 0 {
				delete(s.busy, d.String())
			}
		}
	}
	s.removal.RLock() // not between a collection's look and its deed
	defer s.removal.RUnlock()
	add(1)
	return func() { add(-1) }
}

// Untag takes one name away; the image itself goes with its last name.
func (s *Store) Untag(ref string) error {
	name, err := Normalize(ref)
	if err != nil {
		return err
	}
	s.mu.Lock()
	img, err := s.find(name)
	if err == nil && len(img.RepoTags)+len(img.RepoDigests) > 1 {
		defer s.mu.Unlock()
		c := img.clone()
		drop := func(n string) bool { return n == name }
		c.RepoTags, c.RepoDigests = slices.DeleteFunc(c.RepoTags, drop), slices.DeleteFunc(c.RepoDigests, drop)
		if err := s.write(&c); err != nil {
			return err
		}
		s.images[c.ID] = &c
		return nil
	}
	s.mu.Unlock()
	return s.Remove(ref)
}

// collectLayers moves layers away that nothing refers to and that are older than age, and returns where they are now, to
// be deleted. Called with removal and mu held.
func (s *Store) collectLayers(age time.Duration) (gone []string, err error) {
	used := map[string]bool{}
	s.busyMu.Lock()
	for d := range s.busy {
		used[d] = true
	}
	s.busyMu.Unlock()
	for _, img := range s.images {
		for _, d := range img.DiffIDs {
			used[d] = true
		}
	}
	snaps, err := s.snapshots()
	if err != nil {
		return nil, err
	}
	for _, snap := range snaps {
		for _, d := range snap.DiffIDs {
			used[d] = true
		}
	}
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return nil, fmt.Errorf("read the layers: %w", err)
	}
	mounted := "" // read once there is something to remove
	for _, e := range entries {
		if used["sha256:"+e.Name()] {
			continue
		}
		if st, err := e.Info(); err != nil || time.Since(st.ModTime()) < age {
			continue
		}
		if mounted == "" {
			data, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				return gone, fmt.Errorf("remove layer: %w", err)
			}
			mounted = string(data)
		}
		// An image volume has no snapshot: its mount is what keeps the layer.
		if strings.Contains(mounted, "/"+e.Name()+"/fs") {
			continue
		}
		dir, err := s.moveLayer(e.Name())
		if err != nil {
			return gone, err
		}
		gone = append(gone, dir)
	}
	return gone, nil
}

// moveLayer takes layers/<name> out of the way, to be deleted: a crash must not leave half a layer under its final name.
func (s *Store) moveLayer(name string) (string, error) {
	dir, err := os.MkdirTemp(s.path("tmp"), "gone-")
	if err != nil {
		return "", fmt.Errorf("remove layer: %w", err)
	}
	if err := os.Rename(s.path("layers", name), filepath.Join(dir, "layer")); err != nil {
		return "", fmt.Errorf("remove layer: %w", err)
	}
	return dir, nil
}
