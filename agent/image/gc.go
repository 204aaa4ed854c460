package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// collectEvery is upstream's interval. It is a look, not work: two calls of the runtime and a statfs. It stays a timer since
// nothing tells how long ago an image was last used; a disk that fills up faster is the evictor's, who calls DeleteUnused.
const collectEvery = 5 * time.Minute

// Thresholds say when images are collected, in per cent of the image file system: above High, down to Low.
type Thresholds struct{ High, Low int }

// Collector removes images that no container uses when their file system fills up.
type Collector struct {
	Images     runtimeapi.ImageServiceClient
	Runtime    runtimeapi.RuntimeServiceClient
	Thresholds Thresholds
	MinAge     time.Duration // since this agent first saw the image: younger ones stay
	MaxAge     time.Duration // since a container last used the image: older ones go; 0 means never
	// Failed is told when not enough could be freed, in an event's words.
	Failed func(reason, message string)
	// Volumes returns the references of images that pods mount: a container's image volumes aren't in its CRI listing.
	// May be nil.
	Volumes func() []string
	// Removed is told after images were removed which ones are there, and when they were listed. May be nil.
	Removed func(there func(id string) bool, listed time.Time)
	Log     *slog.Logger

	mu   sync.Mutex          // one collection at a time
	seen map[string]sighting // image ID
	dir  string              // where the images are, once known
}

type sighting struct{ first, used time.Time }

// Run looks every five minutes until ctx ends; not at all if neither disk nor age can make an image go.
func (c *Collector) Run(ctx context.Context) error {
	if c.Thresholds.High >= 100 && c.MaxAge == 0 {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(collectEvery)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			err := c.Collect(ctx, now)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				c.Log.Error("Image garbage collection failed", "err", err)
			}
			if err != nil && failed { // an event for repeated failures only, as upstream has it
				c.Failed("ImageGCFailed", err.Error())
			}
			failed = err != nil
		}
	}
}

// Collect frees space once, if there is need.
func (c *Collector) Collect(ctx context.Context, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	images, err := c.look(ctx, now)
	if err != nil {
		return err
	}
	if c.MaxAge > 0 {
		old := slices.DeleteFunc(victims(images, c.seen, now, c.MinAge), func(img *runtimeapi.Image) bool {
			s := c.seen[img.Id]
			last := s.used
			if last.Before(s.first) {
				last = s.first
			}
			return now.Sub(last) <= c.MaxAge
		})
		if _, err := c.remove(ctx, old, math.MaxUint64); err != nil {
			return fmt.Errorf("wanted to free images older than %v, encountered errors in image deletion: %w", c.MaxAge, err)
		}
	}
	total, free, err := c.fileSystem(ctx)
	if err != nil {
		return err
	}
	if total == 0 {
		c.Failed("InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
		return errors.New("invalid capacity 0 on image filesystem")
	}
	percent, want := excess(total, free, c.Thresholds)
	if want == 0 {
		return nil
	}
	c.Log.Info("Disk usage on image filesystem is over the high threshold, trying to free bytes down to the low threshold",
		"usage", percent, "highThreshold", c.Thresholds.High, "amountToFree", want, "lowThreshold", c.Thresholds.Low)
	freed, err := c.remove(ctx, victims(images, c.seen, now, c.MinAge), want)
	if err != nil {
		return fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", want, freed, err)
	}
	if freed < want {
		msg := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", percent, size(total), freed)
		c.Failed("FreeDiskSpaceFailed", msg)
		return errors.New(msg)
	}
	return nil
}

// excess returns how full a file system is, in per cent rounded up, and how many bytes must go, none below High.
func excess(total, free uint64, t Thresholds) (percent int, want uint64) {
	free = min(free, total)
	percent = 100 - int(free*100/total)
	if target := total / 100 * uint64(100-t.Low); percent >= t.High && target > free {
		want = target - free
	}
	return percent, want
}

// size is a number of bytes for people.
func size(bytes uint64) string {
	f, unit := float64(bytes), 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %ciB", f, "?KMGT"[unit])
}

// DeleteUnused removes every image that may go: the node is short of disk.
func (c *Collector) DeleteUnused(ctx context.Context, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	images, err := c.look(ctx, now)
	if err != nil {
		return err
	}
	_, err = c.remove(ctx, victims(images, c.seen, now, c.MinAge), math.MaxUint64)
	return err
}

// remove removes images in their order until enough is free. One that can't be removed doesn't keep the others.
func (c *Collector) remove(ctx context.Context, list []*runtimeapi.Image, want uint64) (freed uint64, err error) {
	began := time.Now()
	var errs []error
	for _, img := range list {
		if freed >= want {
			break
		}
		if _, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: img.Id}}); err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", img.Id, err))
			continue
		}
		delete(c.seen, img.Id)
		freed += img.Size
	}
	if c.Removed != nil && freed > 0 {
		c.Removed(func(id string) bool { _, ok := c.seen[id]; return ok }, began)
	}
	return freed, errors.Join(errs...)
}

// victims are the images that may go, the longest unused first. seen has those in use now with used == now.
func victims(images []*runtimeapi.Image, seen map[string]sighting, now time.Time, minAge time.Duration) []*runtimeapi.Image {
	var out []*runtimeapi.Image
	for _, img := range images {
		s := seen[img.Id]
		if !img.Pinned && !s.used.Equal(now) && now.Sub(s.first) >= minAge {
			out = append(out, img)
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Image) int {
		x, y := seen[a.Id], seen[b.Id]
		return cmp.Or(x.used.Compare(y.used), x.first.Compare(y.first), cmp.Compare(a.Id, b.Id))
	})
	return out
}

// look brings the sightings up to date: which images there are, and which are used by a container, dead ones too.
func (c *Collector) look(ctx context.Context, now time.Time) ([]*runtimeapi.Image, error) {
	list, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	inUse := map[string]bool{}
	for _, x := range containers.Containers {
		for _, ref := range []string{x.ImageId, x.ImageRef, x.GetImage().GetImage(), x.GetImage().GetUserSpecifiedImage()} {
			inUse[ref] = ref != ""
		}
	}
	if c.Volumes != nil {
		for _, ref := range c.Volumes() {
			inUse[ref], inUse[fullName(ref)] = true, true
		}
	}
	if c.seen == nil {
		c.seen = map[string]sighting{}
	}
	there := map[string]bool{}
	for _, img := range list.Images {
		there[img.Id] = true
		s, ok := c.seen[img.Id]
		if !ok {
			s.first = now
		}
		names := append(append([]string{img.Id}, img.RepoTags...), img.RepoDigests...)
		if slices.ContainsFunc(names, func(n string) bool { return inUse[n] }) {
			s.used = now
		}
		c.seen[img.Id] = s
	}
	for id := range c.seen {
		if !there[id] {
			delete(c.seen, id)
		}
	}
	return list.Images, nil
}

func (c *Collector) fileSystem(ctx context.Context) (total, free uint64, err error) {
	if c.dir == "" { // asked once: the runtime measures all of its containers for an answer
		r, err := c.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
		if err != nil {
			return 0, 0, fmt.Errorf("image file system: %w", err)
		}
		if len(r.GetImageFilesystems()) == 0 {
			return 0, 0, errors.New("image file system: the runtime names none")
		}
		c.dir = r.ImageFilesystems[0].GetFsId().GetMountpoint()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("image file system %s: %w", c.dir, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}
