package image

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

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
	Log    *slog.Logger

	mu   sync.Mutex          // one collection at a time
	seen map[string]sighting // image ID
}

type sighting struct{ first, used time.Time }

// Run looks every five minutes until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	t := time.NewTicker(collectEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if err := c.Collect(ctx, now); err != nil && ctx.Err() == nil {
				c.Log.Warn("images not collected", "err", err)
				c.Failed("ImageGCFailed", err.Error())
			}
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
		c.remove(ctx, slices.DeleteFunc(victims(images, c.seen, now, c.MinAge), func(img *runtimeapi.Image) bool {
			s := c.seen[img.Id]
			last := s.used
			if last.Before(s.first) {
				last = s.first
			}
			return now.Sub(last) <= c.MaxAge
		}), math.MaxUint64)
	}
	total, free, err := c.fileSystem(ctx)
	if err != nil {
		return err
	}
	used := total - free
	if total == 0 || used*100 < total*uint64(c.Thresholds.High) {
		return nil
	}
	want := used - total*uint64(c.Thresholds.Low)/100
	freed := c.remove(ctx, victims(images, c.seen, now, c.MinAge), want)
	if freed < want {
		msg := fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed)
		c.Failed("FreeDiskSpaceFailed", msg)
	}
	return nil
}

// DeleteUnused removes every image that may go: the node is short of disk.
func (c *Collector) DeleteUnused(ctx context.Context, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	images, err := c.look(ctx, now)
	if err != nil {
		return err
	}
	c.remove(ctx, victims(images, c.seen, now, c.MinAge), math.MaxUint64)
	return nil
}

// remove removes images in their order until enough is free.
func (c *Collector) remove(ctx context.Context, list []*runtimeapi.Image, want uint64) (freed uint64) {
	for _, img := range list {
		if freed >= want {
			break
		}
		if _, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: img.Id}}); err != nil {
			c.Log.Warn("image not removed", "image", img.Id, "err", err)
			continue
		}
		delete(c.seen, img.Id)
		freed += img.Size
	}
	return freed
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
	r, err := c.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return 0, 0, fmt.Errorf("image file system: %w", err)
	}
	if len(r.GetImageFilesystems()) == 0 {
		return 0, 0, nil
	}
	path := r.ImageFilesystems[0].GetFsId().GetMountpoint()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("image file system %s: %w", path, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}
