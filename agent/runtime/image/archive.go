package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// ErrBadArchive marks an archive that is neither a docker archive nor an OCI layout, or is damaged.
var ErrBadArchive = errors.New("not a usable image archive")

// archive is an indexed tar file: names to places, so that blobs are read where they lie.
type archive struct {
	f       *os.File
	entries map[string]*io.SectionReader
}

// dockerManifest is one element of manifest.json in a `docker save` archive.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Import takes every image of an archive (docker save or OCI layout, plain or compressed) and returns the references
// that it now answers to; an image without a name is returned by its ID. Nothing is kept of an archive that is damaged.
func (s *Store) Import(ctx context.Context, r io.Reader) ([]string, error) {
	f, err := os.CreateTemp(s.path("tmp"), "archive-")
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.Copy(f, &roomReader{r: &contextReader{ctx: ctx, r: r}, room: s.room}); err != nil {
		return nil, fmt.Errorf("receive the archive: %w", err)
	}
	return s.importOpen(ctx, f)
}

// ImportFile is Import for an archive that is already a file.
func (s *Store) ImportFile(ctx context.Context, name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer f.Close()
	refs, err := s.importOpen(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	return refs, nil
}

func (s *Store) importOpen(ctx context.Context, f *os.File) ([]string, error) {
	plain, cleanup, err := s.plainFile(f)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	a, err := indexArchive(plain)
	if err != nil {
		return nil, err
	}
	switch {
	case a.entries["manifest.json"] != nil:
		return s.importDocker(ctx, a)
	case a.entries[ocispec.ImageIndexFile] != nil:
		return s.importOCI(ctx, a)
	}
	return nil, fmt.Errorf("%w: it holds neither manifest.json (docker save) nor index.json (OCI layout)", ErrBadArchive)
}

// roomReader stops a copy before it fills the disk.
type roomReader struct {
	r     io.Reader
	room  func(int64) error
	asked int64 // bytes that there was room for
}

func (r *roomReader) Read(p []byte) (int, error) {
	if r.asked <= 0 {
		if err := r.room(roomStep); err != nil {
			return 0, err
		}
		r.asked = roomStep
	}
	n, err := r.r.Read(p)
	r.asked -= int64(n)
	return n, err
}

// plainFile decompresses a compressed archive into a file of its own: an index needs random access.
func (s *Store) plainFile(f *os.File) (*os.File, func(), error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, fmt.Errorf("read the archive: %w", err)
	}
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read the archive: %w", err)
	}
	if n == 0 {
		return nil, nil, fmt.Errorf("%w: it is empty", ErrBadArchive)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, fmt.Errorf("read the archive: %w", err)
	}
	if !(head[0] == 0x1f && head[1] == 0x8b) && string(head) != "\x28\xb5\x2f\xfd" {
		return f, func() {}, nil
	}
	z, err := decompress(f, &s.decoders)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBadArchive, err)
	}
	defer z.Close()
	out, err := os.CreateTemp(s.path("tmp"), "archive-")
	if err != nil {
		return nil, nil, fmt.Errorf("import: %w", err)
	}
	cleanup := func() { out.Close(); os.Remove(out.Name()) }
	size, err := io.Copy(out, &roomReader{r: io.LimitReader(z, s.cfg.Limits.ImageBytes+1), room: s.room})
	switch {
	case errors.Is(err, unix.ENOSPC):
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrBadArchive, err)
	case size > s.cfg.Limits.ImageBytes:
		err = fmt.Errorf("%w: an archive of more than %d bytes", ErrTooBig, s.cfg.Limits.ImageBytes)
	}
	if err != nil {
		cleanup()
		return nil, nil, err
	}
	return out, cleanup, nil
}

// maxArchiveEntries bounds the memory for an archive's index: an image takes a handful, and two a layer.
const maxArchiveEntries = 100_000

func indexArchive(f *os.File) (*archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	a := &archive{f: f, entries: map[string]*io.SectionReader{}}
	tr := tar.NewReader(f)
	links := map[string]string{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: truncated or not a tar file: %w", ErrBadArchive, err)
		}
		if len(a.entries)+len(links) > maxArchiveEntries {
			return nil, fmt.Errorf("%w: an archive with more than %d files", ErrTooBig, maxArchiveEntries)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, fmt.Errorf("read the archive: %w", err)
			}
			a.entries[name] = io.NewSectionReader(f, at, h.Size)
		case tar.TypeLink:
			links[name] = path.Clean(h.Linkname)
		case tar.TypeSymlink: // old docker versions link equal layers
			links[name] = path.Join(path.Dir(name), h.Linkname)
		}
	}
	for name, target := range links {
		if e := a.entries[target]; e != nil {
			a.entries[name] = e
		}
	}
	return a, nil
}

// read returns a small file of the archive whole.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	e := a.entries[path.Clean(name)]
	if e == nil {
		return nil, fmt.Errorf("%w: %s is missing", ErrBadArchive, name)
	}
	if e.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than the %d allowed", ErrBadArchive, name, e.Size(), limit)
	}
	data := make([]byte, e.Size())
	if _, err := e.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadArchive, name, err)
	}
	return data, nil
}

func (a *archive) open(name string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		e := a.entries[path.Clean(name)]
		if e == nil {
			return nil, fmt.Errorf("%w: %s is missing", ErrBadArchive, name)
		}
		return io.NopCloser(io.NewSectionReader(a.f, sectionOffset(e), e.Size())), nil
	}
}

// openBlob is open for a blob, whose bytes are compared with its digest at their end.
func (a *archive) openBlob(desc ocispec.Descriptor) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		rc, err := a.open(blobPath(desc.Digest))(ctx)
		if err != nil {
			return nil, err
		}
		return &verifiedBlob{ReadCloser: rc, want: desc.Digest, verifier: desc.Digest.Verifier()}, nil
	}
}

type verifiedBlob struct {
	io.ReadCloser
	want     digest.Digest
	verifier digest.Verifier
}

func (v *verifiedBlob) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.verifier.Write(p[:n])
	if err == io.EOF && !v.verifier.Verified() {
		return n, fmt.Errorf("%w: blob %s does not match its digest", ErrBadArchive, v.want)
	}
	return n, err
}

func sectionOffset(e *io.SectionReader) int64 {
	_, off, _ := e.Outer()
	return off
}

func (s *Store) importDocker(ctx context.Context, a *archive) ([]string, error) {
	data, err := a.read("manifest.json", s.cfg.Limits.ConfigBytes)
	if err != nil {
		return nil, err
	}
	var manifests []dockerManifest
	if err := json.Unmarshal(data, &manifests); err != nil {
		return nil, fmt.Errorf("%w: manifest.json: %w", ErrBadArchive, err)
	}
	if len(manifests) == 0 {
		return nil, fmt.Errorf("%w: manifest.json lists no image", ErrBadArchive)
	}
	var refs []string
	for _, m := range manifests {
		names := make([]string, 0, len(m.RepoTags))
		for _, t := range m.RepoTags {
			n, err := Normalize(t)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrBadArchive, err)
			}
			names = append(names, n)
		}
		config, err := a.read(m.Config, s.cfg.Limits.ConfigBytes)
		if err != nil {
			return nil, err
		}
		layers := make([]layerSource, len(m.Layers))
		for i, l := range m.Layers {
			layers[i].open = a.open(l)
		}
		id, err := s.add(ctx, config, layers, names)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			names = []string{id}
		}
		refs = append(refs, names...)
	}
	return refs, nil
}

func (s *Store) importOCI(ctx context.Context, a *archive) ([]string, error) {
	data, err := a.read(ocispec.ImageIndexFile, s.cfg.Limits.ConfigBytes)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", ErrBadArchive, err)
	}
	var refs []string
	for _, desc := range index.Manifests {
		var names []string
		// containerd writes the full name under its own key; the OCI one may hold a bare tag.
		for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
			if v := desc.Annotations[key]; strings.Contains(v, "/") || (v != "" && strings.Contains(v, ":")) {
				n, err := Normalize(v)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", ErrBadArchive, err)
				}
				names = []string{n}
				break
			}
		}
		manifest, mdesc, err := s.ociManifest(a, desc, 0)
		if err != nil {
			return nil, err
		}
		config, err := a.blob(manifest.Config.Digest, s.cfg.Limits.ConfigBytes)
		if err != nil {
			return nil, err
		}
		layers := make([]layerSource, len(manifest.Layers))
		for i, l := range manifest.Layers {
			layers[i].open = a.openBlob(l)
		}
		all := names
		for _, n := range names {
			all = append(all, digestReference(n, mdesc.Digest))
		}
		id, err := s.add(ctx, config, layers, all)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			names = []string{id}
		}
		refs = append(refs, names...)
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("%w: index.json lists no image", ErrBadArchive)
	}
	return refs, nil
}

func blobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// blob returns a small blob whole, its digest checked.
func (a *archive) blob(d digest.Digest, limit int64) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", ErrBadArchive, d, err)
	}
	data, err := a.read(blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("%w: blob %s does not match its digest", ErrBadArchive, d)
	}
	return data, nil
}

// ociManifest follows an index to the manifest of this machine's platform.
func (s *Store) ociManifest(a *archive, desc ocispec.Descriptor, depth int) (ocispec.Manifest, ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if depth > maxIndexes {
		return m, desc, fmt.Errorf("%w: indexes nested more than %d deep", ErrBadArchive, maxIndexes)
	}
	data, err := a.blob(desc.Digest, s.cfg.Limits.ConfigBytes)
	if err != nil {
		return m, desc, err
	}
	if isIndex(desc.MediaType) {
		next, err := choosePlatform(data, thisPlatform())
		if err != nil {
			return m, desc, err
		}
		return s.ociManifest(a, next, depth+1)
	}
	m, err = parseManifest(mediaType(desc.MediaType, data), data, s.cfg.Limits)
	return m, desc, err
}
