package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrUnsupported marks what this runtime can't run: another platform's image, an artifact, an old format.
var ErrUnsupported = errors.New("unsupported image")

const (
	dockerManifestType = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndexType    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfigType   = "application/vnd.docker.container.image.v1+json"
	schema1Type        = "application/vnd.docker.distribution.manifest.v1"
)

var acceptManifests = []string{strings.Join([]string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifestType, dockerIndexType,
}, ", ")}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndexType
}

// mediaType is what a manifest says of itself, or else what it was served as.
func mediaType(header string, data []byte) string {
	var m struct {
		MediaType     string `json:"mediaType"`
		SchemaVersion int    `json:"schemaVersion"`
		Manifests     json.RawMessage
		Layers        json.RawMessage
	}
	if json.Unmarshal(data, &m) != nil {
		return header
	}
	served, _, err := mime.ParseMediaType(header)
	if err != nil {
		served = ""
	}
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.SchemaVersion == 1:
		return schema1Type + "+json"
	case served == ocispec.MediaTypeImageManifest, served == dockerManifestType, isIndex(served), strings.HasPrefix(served, schema1Type):
		return served
	case m.Manifests != nil && m.Layers == nil:
		return ocispec.MediaTypeImageIndex
	case m.Layers != nil && m.Manifests == nil:
		return ocispec.MediaTypeImageManifest
	}
	return served
}

// parseManifest reads an image manifest and refuses what can't become a container's root, with the reason.
func parseManifest(kind string, data []byte, limits Limits) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	switch {
	case strings.HasPrefix(kind, schema1Type):
		return m, fmt.Errorf("%w: it has a manifest of schema version 1, which registries gave up: push it again with a current tool", ErrUnsupported)
	case kind != ocispec.MediaTypeImageManifest && kind != dockerManifestType:
		return m, fmt.Errorf("%w: manifest type %.100q", ErrUnsupported, kind)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrBadArchive, err)
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfigType && t != "" {
		return m, fmt.Errorf("%w: it is not a container image but an artifact (config type %.100q)", ErrUnsupported, t)
	}
	if len(m.Layers) > limits.Layers {
		return m, fmt.Errorf("%w: %d layers, %d are allowed", ErrTooBig, len(m.Layers), limits.Layers)
	}
	for i, l := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDigest(l.Digest); err != nil {
			return m, fmt.Errorf("%w: manifest: %w", ErrBadArchive, err)
		}
		if l.Size < 0 {
			return m, fmt.Errorf("%w: %s has a negative size", ErrBadArchive, l.Digest)
		}
		if i == 0 {
			continue
		}
		if err := checkLayerType(l.MediaType); err != nil {
			return m, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		if l.Size > limits.LayerBytes {
			return m, fmt.Errorf("%w: layer %s has %d bytes, %d are allowed", ErrTooBig, l.Digest, l.Size, limits.LayerBytes)
		}
	}
	return m, nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w", d, err)
	}
	return nil
}

// checkLayerType refuses what isn't a tar archive of our compressions. The compression itself is told by the first
// bytes: media types lie in the field.
func checkLayerType(t string) error {
	switch {
	case t == "", t == "application/vnd.docker.image.rootfs.diff.tar", strings.HasPrefix(t, "application/vnd.docker.image.rootfs.diff.tar."),
		t == ocispec.MediaTypeImageLayer, t == ocispec.MediaTypeImageLayerGzip, t == ocispec.MediaTypeImageLayerZstd:
		return nil
	case strings.Contains(t, ".foreign.") || strings.Contains(t, ".nondistributable."):
		return fmt.Errorf("%w: a foreign layer (%s), which registries don't hold: rebuild the image without it", ErrUnsupported, t)
	case strings.HasSuffix(t, "+encrypted"):
		return fmt.Errorf("%w: an encrypted layer (%s)", ErrUnsupported, t)
	}
	return fmt.Errorf("%w: layer type %.100q", ErrUnsupported, t)
}

// platform is what this machine runs, the best variant first.
type platform struct {
	arch     string
	variants []string
}

func thisPlatform() platform { return platformOf(runtime.GOARCH) }

func platformOf(arch string) platform {
	switch arch {
	case "arm": // built for ARMv7, which runs what is built for less
		return platform{arch, []string{"v7", "v6", "v5"}}
	case "arm64":
		return platform{arch, []string{"v8"}}
	case "amd64":
		return platform{arch, []string{"v1"}}
	}
	return platform{arch: arch}
}

// rank tells how well something fits, 0 being best and negative that it doesn't. No variant stands for the usual one.
func (p platform) rank(o *ocispec.Platform) int {
	if o.OS != "linux" || o.Architecture != p.arch {
		return -1
	}
	if o.Variant == "" {
		return 0
	}
	return slices.Index(p.variants, o.Variant)
}

// choosePlatform picks an index's manifest for this machine: the one of the same operating system and architecture whose
// variant fits best, or one that names no platform.
func choosePlatform(index []byte, p platform) (ocispec.Descriptor, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(index, &idx); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: image index: %w", ErrBadArchive, err)
	}
	var have []string
	best, any := -1, -1
	for i, d := range idx.Manifests {
		if d.Platform == nil {
			if any < 0 {
				any = i
			}
			continue
		}
		if r := p.rank(d.Platform); r >= 0 && (best < 0 || r < p.rank(idx.Manifests[best].Platform)) {
			best = i
		}
		name := d.Platform.OS + "/" + d.Platform.Architecture
		if d.Platform.Variant != "" {
			name += "/" + d.Platform.Variant
		}
		if name != "unknown/unknown" && len(have) < 20 { // builders' attestations
			have = append(have, fmt.Sprintf("%.40s", name))
		}
	}
	if best < 0 {
		best = any
	}
	if best < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: no match for platform in manifest: it is not built for linux/%s, but for %s", ErrUnsupported, p.arch, strings.Join(have, ", "))
	}
	d := idx.Manifests[best]
	if err := checkDigest(d.Digest); err != nil {
		return d, fmt.Errorf("%w: image index: %w", ErrBadArchive, err)
	}
	return d, nil
}

// parseConfig reads an image's config and compares it with the number of layers.
func parseConfig(data []byte, layers int) (ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%w: image config: %w", ErrBadArchive, err)
	}
	if want := len(c.RootFS.DiffIDs); layers != want {
		return c, fmt.Errorf("%w: the manifest has %d layers and the config %d", ErrBadArchive, layers, want)
	}
	if c.OS != "" && c.OS != "linux" {
		return c, fmt.Errorf("%w: it is built for %.40q and this machine runs linux", ErrUnsupported, c.OS)
	}
	if c.Architecture != "" && c.Architecture != runtime.GOARCH {
		return c, fmt.Errorf("%w: it is built for %.40s and this machine is %s: use one built for it", ErrUnsupported, c.Architecture, runtime.GOARCH)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := checkDigest(d); err != nil {
			return c, fmt.Errorf("%w: image config: %w", ErrBadArchive, err)
		}
	}
	return c, nil
}
