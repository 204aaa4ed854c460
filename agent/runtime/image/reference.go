package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The names of images are parsed here and not by github.com/distribution/reference, whose grammar this is: that package
// compiles a dozen regular expressions when a program starts, and this program starts again for every container and every
// exec, where they were a seventeenth of the whole first step. FuzzReference holds the two against each other.

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

// reference is an image's name in full: "busybox" is that of docker.io/library/busybox:latest. Either tag or digest is set.
type reference struct {
	domain string // host, and port if it has one
	path   string // of the repository
	tag    string
	digest digest.Digest
}

// parseReference reads a name as users write it. One with both tag and digest keeps the digest alone, as in every runtime.
func parseReference(text string) (reference, error) {
	ref, err := parseName(text)
	if err != nil {
		return reference{}, fmt.Errorf("image reference %q: %w", text, err)
	}
	return ref, nil
}

func parseName(text string) (ref reference, err error) {
	if isIdentifier(text) {
		return ref, fmt.Errorf("%w: an image's ID can't be a repository's name", errReference)
	}
	domain, rest := splitDomain(text)
	name := rest
	if at := strings.IndexByte(rest, '@'); at >= 0 {
		name = rest[:at]
		if ref.digest, err = digest.Parse(rest[at+1:]); err != nil {
			return ref, fmt.Errorf("%w: %w", errReference, err)
		}
	}
	name, tag, tagged := strings.Cut(name, ":")
	switch {
	case strings.ToLower(name) != name:
		return ref, fmt.Errorf("%w: %w", errReference, errUppercase)
	case !isDomain(domain), !isPath(name), tagged && !isTag(tag):
		return ref, errReference
	case len(name) > maxRepository:
		return ref, fmt.Errorf("%w: the repository's name has %d characters, %d are allowed", errReference, len(name), maxRepository)
	}
	ref.domain, ref.path = domain, name
	if ref.digest == "" {
		if ref.tag = tag; !tagged {
			ref.tag = defaultTag
		}
	}
	return ref, nil
}

// name is the repository, with its registry.
func (r reference) name() string { return r.domain + "/" + r.path }

func (r reference) String() string {
	if r.digest != "" {
		return r.name() + "@" + r.digest.String()
	}
	return r.name() + ":" + r.tag
}

// version is what the registry knows the image by.
func (r reference) version() string {
	if r.digest != "" {
		return r.digest.String()
	}
	return r.tag
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

// isIdentifier knows an image's ID without its algorithm; a repository can't be called that.
func isIdentifier(text string) bool {
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
