package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"runtime/debug"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/internal/imageref"
)

// Pull fetches an image from its registry or one of its mirrors and returns its ID. Layers that the store has are not
// fetched again. A place that fails is skipped for the next; the error then names them all.
func (s *Store) Pull(ctx context.Context, ref string, creds Auth) (string, error) {
	named, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	regs, err := loadRegistries(s.cfg.Registries)
	if err != nil {
		return "", err
	}
	if id, ok := s.arrived(ctx, ref); ok {
		return id, nil
	}
	var errs error
	for _, e := range regs.endpoints(named.Domain) {
		id, err := s.pullFrom(ctx, named, e, regs, creds)
		if err == nil {
			return id, nil
		}
		if err = fmt.Errorf("%s: %w", e.host, err); errs != nil {
			err = fmt.Errorf("%w; %w", errs, err) // on one line: it ends up in events
		}
		errs = err
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, ErrTooBig) || errors.Is(err, ErrUnsafeLayer) {
			s.tidy() // the layers that did fit
			break    // no other place would help
		}
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("pull %s: %w", named, errs)
}

func (s *Store) pullFrom(ctx context.Context, named imageref.Reference, e endpoint, regs *Registries, creds Auth) (string, error) {
	r, done, err := s.repository(e, regs, named, creds)
	if err != nil {
		return "", err
	}
	defer done()
	top, manifest, err := s.resolve(ctx, r, named.Version())
	if err != nil {
		return "", err
	}
	config, err := r.config(ctx, manifest.Config)
	if err != nil {
		return "", err
	}
	parsed, err := parseConfig(config, len(manifest.Layers))
	if err != nil {
		return "", err
	}
	// The digest that the tag pointed to, the index's when there is one: that is what users quote.
	names := []string{named.Repository() + "@" + top.String()}
	if named.Digest == "" {
		names = append(names, named.String())
	}
	defer s.hold(parsed)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	layers := make([]layerSource, len(manifest.Layers))
	for i, l := range manifest.Layers {
		layers[i] = s.startFetch(ctx, r, l, parsed.RootFS.DiffIDs[i].String())
	}
	id, err := s.add(ctx, config, layers, names)
	cancel()
	for i, l := range layers { // wait for downloads that were given up, and close what they opened
		if f, ferr := l.open(context.WithoutCancel(ctx)); ferr == nil {
			f.Close()
			if s.haveLayer(parsed.RootFS.DiffIDs[i].String()) { // another pull was faster
				l.unpacked()
			}
		}
		if errors.Is(err, unix.ENOSPC) { // the space is needed more than the head start of the next attempt
			l.unpacked()
		}
	}
	return id, err
}

// startFetch downloads a layer in the background: unpacking goes from the lowest layer up, the network needn't.
func (s *Store) startFetch(ctx context.Context, r *repository, desc ocispec.Descriptor, diffID string) layerSource {
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	if s.haveLayer(diffID) {
		got <- result{err: fmt.Errorf("layer %s is being removed: pull again", diffID)}
	} else {
		go func() {
			f, err := s.fetch(ctx, r, desc)
			got <- result{f, err}
		}()
	}
	return layerSource{
		open: func(ctx context.Context) (io.ReadCloser, error) {
			select {
			case res := <-got:
				got <- result{err: os.ErrClosed}
				if res.err != nil {
					return nil, res.err
				}
				return res.f, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		unpacked: func() { s.dropBlob(desc.Digest) },
	}
}

// resolve follows a tag or digest through indexes to this machine's image manifest. The digest returned is that of what
// the tag points to.
func (s *Store) resolve(ctx context.Context, r *repository, version string) (digest.Digest, ocispec.Manifest, error) {
	var top digest.Digest
	for depth := 0; ; depth++ {
		if depth > maxIndexes {
			return top, ocispec.Manifest{}, fmt.Errorf("%w: indexes nested more than %d deep", ErrBadArchive, maxIndexes)
		}
		desc, data, err := r.manifest(ctx, version)
		if err != nil {
			return top, ocispec.Manifest{}, err
		}
		if depth == 0 {
			top = desc.Digest
		}
		if !isIndex(desc.MediaType) {
			m, err := parseManifest(desc.MediaType, data, s.cfg.Limits)
			return top, m, err
		}
		next, err := choosePlatform(data, thisPlatform())
		if err != nil {
			return top, ocispec.Manifest{}, err
		}
		version = next.Digest.String()
	}
}

const maxIndexes = 3

// add unpacks an image's layers and records it under the names.
func (s *Store) add(ctx context.Context, config []byte, layers []layerSource, names []string) (string, error) {
	img := Image{ID: digest.FromBytes(config).String()}
	var err error
	if img.Config, err = parseConfig(config, len(layers)); err != nil {
		return "", err
	}
	if len(layers) > s.cfg.Limits.Layers {
		return "", fmt.Errorf("%w: %d layers, %d are allowed", ErrTooBig, len(layers), s.cfg.Limits.Layers)
	}
	defer s.hold(img.Config)()
	s.adding.Add(1)
	defer s.settle()
	img.Size = uint64(len(config))
	for i, src := range layers {
		diffID := img.Config.RootFS.DiffIDs[i].String()
		if err := s.addLayer(ctx, diffID, img.DiffIDs, src); err != nil {
			return "", err
		}
		info, err := s.layerInfo(diffID)
		if err != nil {
			return "", err
		}
		img.DiffIDs = append(img.DiffIDs, diffID)
		if img.Size += uint64(info.Bytes); img.Size > uint64(s.cfg.Limits.ImageBytes) {
			return "", fmt.Errorf("%w: more than %d bytes unpacked", ErrTooBig, s.cfg.Limits.ImageBytes)
		}
	}
	if err := s.put(img, names...); err != nil {
		return "", err
	}
	return img.ID, nil
}

// settle gives memory back once the last image is in: windows of decoders and buffers of connections are of no use to a
// runtime that may then be idle for days, and an idle Go program collects nothing for minutes.
func (s *Store) settle() {
	if s.adding.Add(-1) == 0 && s.unpacked.Swap(0) > 0 {
		go func() {
			runtime.GC() // a pool outlives one collection
			debug.FreeOSMemory()
		}()
	}
}

// digestReference spells "name@digest" for a name that may carry a tag.
func digestReference(name string, d digest.Digest) string {
	named, err := parseReference(name)
	if err != nil {
		return path.Clean(name) + "@" + d.String()
	}
	return named.Repository() + "@" + d.String()
}
