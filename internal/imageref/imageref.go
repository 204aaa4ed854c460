// Package imageref reads the names of images, by the grammar of github.com/distribution/reference. That package compiles a
// dozen regular expressions when a program starts, a millisecond and 170 pages in each of a node's programs, and in every first
// step of a container where that is mote-runtime itself (ADR 0309). FuzzParse holds the two against each other.
package imageref

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	defaultDomain    = "docker.io"
	legacyDomain     = "index.docker.io"
	officialPrefix   = "library/"
	defaultTag       = "latest"
	maxRepository    = 255 // bytes of the path
	maxTag           = 128 // bytes
	identifierLength = 64  // hexadecimal digits of an image's ID
)

var (
	errReference = errors.New("invalid reference format")
	errUppercase = errors.New("repository name must be lowercase")
)

// Reference is an image's name in full: "busybox" is that of docker.io/library/busybox:latest. Either Tag or Digest is set.
type Reference struct {
	Domain    string // host, and port if it has one
	Path      string // of the repository
	Tag       string
	Digest    digest.Digest
	Defaulted bool // Tag is "latest" because the text had neither tag nor digest
}

// Parse reads a name as users write it. One with both tag and digest keeps the digest alone, as in every runtime. The error
// says what is wrong and not with which name.
func Parse(text string) (ref Reference, err error) {
	if IsIdentifier(text) {
		return ref, fmt.Errorf("%w: an image's ID can't be a repository's name", errReference)
	}
	domain, rest := splitDomain(text)
	name, sum, digested := strings.Cut(rest, "@")
	if digested {
		if ref.Digest, err = digest.Parse(sum); err != nil {
			return Reference{}, fmt.Errorf("%w: %w", errReference, err)
		}
	}
	name, tag, tagged := strings.Cut(name, ":")
	switch {
	case strings.ToLower(name) != name:
		return Reference{}, fmt.Errorf("%w: %w", errReference, errUppercase)
	case !isDomain(domain), !isPath(name), tagged && !isTag(tag):
		return Reference{}, errReference
	case len(name) > maxRepository:
		return Reference{}, fmt.Errorf("%w: the repository's name has %d characters, %d are allowed", errReference, len(name), maxRepository)
	}
	ref.Domain, ref.Path = domain, name
	if !digested {
		ref.Tag, ref.Defaulted = tag, !tagged
		if !tagged {
			ref.Tag = defaultTag
		}
	}
	return ref, nil
}

// Trim strips tag and digest off a name, which otherwise stays as it is spelt.
func Trim(text string) (string, error) {
	if _, err := Parse(text); err != nil {
		return "", err
	}
	text, _, _ = strings.Cut(text, "@")
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, '/') {
		text = text[:colon]
	}
	return text, nil
}

// Repository is the name without tag and digest, with its registry.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the name in full.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Repository() + "@" + r.Digest.String()
	}
	return r.Repository() + ":" + r.Tag
}

// Version is what the registry knows the image by: the digest, or the tag.
func (r Reference) Version() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// splitDomain takes the registry off a name. What stands before the first slash is one if it couldn't be a user's name at
// the default registry.
func splitDomain(text string) (domain, rest string) {
	first, rest, found := strings.Cut(text, "/")
	switch {
	case !found:
		return defaultDomain, officialPrefix + text
	case first == legacyDomain:
		domain = defaultDomain
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain = first
	default:
		domain, rest = defaultDomain, text
	}
	if domain == defaultDomain && !strings.Contains(rest, "/") {
		rest = officialPrefix + rest
	}
	return domain, rest
}

// isDomain wants a host name, an IPv4 address or an IPv6 address in brackets, and a port after it or none.
func isDomain(text string) bool {
	if inside, found := strings.CutPrefix(text, "["); found {
		address, port, closed := strings.Cut(inside, "]")
		return closed && address != "" && all(address, func(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' || c == ':' }) &&
			(port == "" || port[0] == ':' && isPort(port[1:]))
	}
	host, port, ported := strings.Cut(text, ":")
	if ported && !isPort(port) {
		return false
	}
	for part := range strings.SplitSeq(host, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !all(part, func(c byte) bool { return letter(c) || digit(c) || c == '-' }) {
			return false
		}
	}
	return true
}

func isPort(text string) bool { return text != "" && all(text, digit) }

// isPath wants components between slashes: lower-case letters and digits, between which there may be a dot, one or two
// underscores, or dashes.
func isPath(text string) bool {
	for part := range strings.SplitSeq(text, "/") {
		for {
			word := strings.IndexFunc(part, func(c rune) bool { return c >= 0x80 || !lower(byte(c)) && !digit(byte(c)) })
			if word < 0 {
				word = len(part)
			}
			if word == 0 {
				return false
			}
			if part = part[word:]; part == "" {
				break
			}
			switch {
			case part[0] == '.':
				part = part[1:]
			case strings.HasPrefix(part, "__"):
				part = part[2:]
			case part[0] == '_':
				part = part[1:]
			case part[0] == '-':
				part = strings.TrimLeft(part, "-")
			default:
				return false
			}
		}
	}
	return true
}

// IsIdentifier knows an image's ID without its algorithm; a repository can't be called that.
func IsIdentifier(text string) bool {
	return len(text) == identifierLength && all(text, func(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' })
}

func isTag(text string) bool {
	return text != "" && len(text) <= maxTag && wordly(text[0]) && all(text, func(c byte) bool { return wordly(c) || c == '.' || c == '-' })
}

func all(text string, is func(byte) bool) bool {
	for i := range len(text) {
		if !is(text[i]) {
			return false
		}
	}
	return true
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func lower(c byte) bool  { return 'a' <= c && c <= 'z' }
func letter(c byte) bool { return lower(c) || 'A' <= c && c <= 'Z' }
func wordly(c byte) bool { return letter(c) || digit(c) || c == '_' }
