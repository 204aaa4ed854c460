package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unpackTest unpacks entries on top of lower directories and returns the layer's directory.
func unpackTest(t *testing.T, limits Limits, lower []string, headers ...any) (string, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking layers with their owners needs root")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		var hdr *tar.Header
		body := ""
		switch h := h.(type) {
		case *tar.Header:
			hdr = h
		case entry:
			hdr, body = &tar.Header{Name: h.name, Typeflag: h.typ, Linkname: h.link, Mode: h.mode, Size: int64(len(h.body))}, h.body
			if hdr.Typeflag == 0 {
				hdr.Typeflag = tar.TypeReg
			}
			if hdr.Mode == 0 {
				hdr.Mode = 0o755
			}
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err := unpack(&buf, dir, unpackOptions{limits: limits.withDefaults(), lower: lower, sums: io.Discard})
	return dir, err
}

func dirEntry(name string) entry        { return entry{name: name, typ: tar.TypeDir} }
func symlink(name, target string) entry { return entry{name: name, typ: tar.TypeSymlink, link: target} }

func hardlink(name, target string) entry { return entry{name: name, typ: tar.TypeLink, link: target} }
func file(name, body string) entry       { return entry{name: name, body: body} }
func special(name string, typ byte) *tar.Header {
	return &tar.Header{Name: name, Typeflag: typ, Mode: 0o644}
}

// tree lists what is in a directory: "name type" and, for whiteouts and opaque directories, so.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		s := strings.TrimPrefix(path, dir+"/")
		switch {
		case isWhiteout(&st):
			s += "!"
		case d.IsDir():
			buf := make([]byte, 1)
			if n, err := unix.Lgetxattr(path, opaqueAttr, buf); err == nil && n == 1 && buf[0] == 'y' {
				s += "*"
			}
			s += "/"
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// What an image may not hold is refused with the reason, and nothing is written outside.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	for name, c := range map[string]struct {
		limits  Limits
		entries []any
		err     error
		reason  string
	}{
		"a path that leaves":         {entries: []any{file("../evil", "x")}, err: ErrUnsafeLayer, reason: "the path leaves the layer"},
		"a path that leaves, within": {entries: []any{file("a/b/../../../evil", "x")}, err: ErrUnsafeLayer, reason: "the path leaves the layer"},
		"hard link that leaves":      {entries: []any{hardlink("l", "../../etc/passwd")}, err: ErrUnsafeLayer, reason: "the path leaves the layer"},
		"absolute hard link":         {entries: []any{hardlink("l", "/etc/passwd")}, err: ErrUnsafeLayer, reason: "which no layer holds"},
		"hard link through a link":   {entries: []any{symlink("d", "/etc"), hardlink("l", "d/passwd")}, err: ErrUnsafeLayer, reason: "which no layer holds"},
		"hard link to a directory":   {entries: []any{dirEntry("d"), hardlink("l", "d")}, err: ErrUnsafeLayer, reason: "not a file"},
		"hard link to the root":      {entries: []any{hardlink("l", "/")}, err: ErrUnsafeLayer, reason: "the layer's root"},
		"hard link to a whiteout":    {entries: []any{file(".wh.x", ""), hardlink("l", "x")}, err: ErrUnsafeLayer, reason: "not a file"},
		"character device":           {entries: []any{special("null", tar.TypeChar)}, err: ErrUnsafeLayer, reason: "device nodes are not allowed"},
		"block device":               {entries: []any{special("sda", tar.TypeBlock)}, err: ErrUnsafeLayer, reason: "device nodes are not allowed"},
		"unknown type":               {entries: []any{special("x", 'Z')}, err: ErrUnsafeLayer, reason: "unknown entry type"},
		"a link in the way":          {entries: []any{symlink("d", outside), file("d/evil", "x")}, err: ErrUnsafeLayer, reason: "a link that leads nowhere"},
		"a link up in the way":       {entries: []any{symlink("d", "../../../../.."+outside), file("d/evil", "x")}, err: ErrUnsafeLayer, reason: "a link that leads nowhere"},
		"a loop in the way":          {entries: []any{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}, err: ErrUnsafeLayer, reason: "can't be reached"},
		"a file in the way":          {entries: []any{file("f", "x"), file("f/x", "x")}, err: ErrUnsafeLayer, reason: "another kind of file"},
		"whiteout of nothing":        {entries: []any{file(".wh.", "")}, err: ErrUnsafeLayer, reason: "whiteout of nothing"},
		"whiteout of the parent":     {entries: []any{file("d/.wh...", "")}, err: ErrUnsafeLayer, reason: "whiteout of nothing"},
		"root as a file":             {entries: []any{symlink("/", "/etc")}, err: ErrUnsafeLayer, reason: "root is not a directory"},
		"a name too long":            {entries: []any{file(strings.Repeat("x", 300), "x")}, err: unix.ENAMETOOLONG},
		"a path too long":            {entries: []any{file(strings.Repeat("d/", 3000)+"x", "x")}, err: ErrUnsafeLayer, reason: "can't be reached"},
		"too many files":             {limits: Limits{LayerEntries: 2}, entries: []any{file("a", ""), file("b", ""), file("c", "")}, err: ErrTooBig, reason: "more than 2 entries"},
		"too many implied":           {limits: Limits{LayerEntries: 3}, entries: []any{file("a/b/c/d", "")}, err: ErrTooBig, reason: "more than 3 entries"},
		"too large together":         {limits: Limits{LayerBytes: 10}, entries: []any{file("a", "123456"), file("b", "123456")}, err: ErrTooBig, reason: "more than 10 bytes"},
		"a file too large":           {limits: Limits{FileBytes: 5}, entries: []any{file("a", "123456")}, err: ErrTooBig, reason: "a file of 6 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := unpackTest(t, c.limits, nil, c.entries...)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, want %v: %s", err, c.err, c.reason)
			}
			if left, _ := os.ReadDir(outside); len(left) != 0 {
				t.Fatalf("written outside of the layer: %v", left)
			}
		})
	}
}

// Links to directories that stack up to a path that no call could name, and nobody could remove, are refused.
func TestDeepTreeThroughLinks(t *testing.T) {
	var entries []any
	at := ""
	deep := strings.TrimSuffix(strings.Repeat("dddddddddd/", 100), "/")
	for i := range 10 {
		entries = append(entries, file(filepath.Join(at, deep, "f"), ""), symlink(fmt.Sprintf("s%d", i), filepath.Join("/", at, deep)))
		at = fmt.Sprintf("s%d", i)
	}
	dir, err := unpackTest(t, Limits{}, nil, entries...)
	if !errors.Is(err, ErrUnsafeLayer) || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("error %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// Whiteouts hide what is below, never what their own layer has, in whatever order they come (OCI image specification,
// layer.md, "Whiteouts").
func TestWhiteouts(t *testing.T) {
	for name, c := range map[string]struct {
		entries []any
		want    string
	}{
		"plain":                               {[]any{file("d/.wh.x", "")}, "d/ d/x!"},
		"opaque":                              {[]any{dirEntry("d"), file("d/.wh..wh..opq", ""), file("d/x", "")}, "d*/ d/x"},
		"opaque after the files":              {[]any{file("d/x", ""), file("d/.wh..wh..opq", "")}, "d*/ d/x"},
		"a file after its whiteout":           {[]any{file(".wh.x", ""), file("x", "new")}, "x"},
		"a file before its whiteout":          {[]any{file("x", "new"), file(".wh.x", "")}, "x"},
		"a directory after its whiteout":      {[]any{file(".wh.d", ""), dirEntry("d"), file("d/x", "")}, "d*/ d/x"},
		"a directory before its whiteout":     {[]any{dirEntry("d"), file("d/x", ""), file(".wh.d", "")}, "d*/ d/x"},
		"an implied directory after":          {[]any{file(".wh.d", ""), file("d/e/x", "")}, "d*/ d/e/ d/e/x"},
		"twice":                               {[]any{file(".wh.x", ""), file(".wh.x", "")}, "x!"},
		"AUFS's own":                          {[]any{file(".wh..wh.plnk", ""), file(".wh..wh.aufs", "")}, ""},
		"a directory replaces a file":         {[]any{file("x", ""), dirEntry("x")}, "x/"},
		"a file replaces a directory":         {[]any{file("x/y", ""), file("x", "")}, "x"},
		"a file replaces a link":              {[]any{symlink("x", "/etc/passwd"), file("x", "mine")}, "x"},
		"a parent that is replaced meanwhile": {[]any{file("a/b/1", ""), symlink("c", "a"), file("c/b/2", ""), file("a", "now a file"), file("d", "")}, "a c d"},
		"through a link in the layer":         {[]any{dirEntry("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "")}, "lib usr/ usr/lib/ usr/lib/x"},
		"a global header":                     {[]any{&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, file("x", "")}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := unpackTest(t, Limits{}, nil, c.entries...)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, dir); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Modes with setuid and sticky bits, owners, times, capabilities and other attributes are kept; the overlay filesystem's
// own are not taken from an image.
func TestMetadata(t *testing.T) {
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service+ep
	when := time.Unix(1_000_000_000, 123)
	dir, err := unpackTest(t, Limits{}, nil,
		&tar.Header{
			Name: "bin", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12, Gid: 34, ModTime: when, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.redirect": "/etc"},
		},
		&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: when}, file("tmp/later", ""),
		&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "bin", Uid: 12, Gid: 34},
		&tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o640},
		&tar.Header{Name: "ancient", Typeflag: tar.TypeReg, ModTime: time.Unix(-1<<40, 0), Format: tar.FormatPAX},
		hardlink("bin2", "bin"),
	)
	if err != nil {
		t.Fatal(err)
	}
	var st, link, tmp unix.Stat_t
	for name, s := range map[string]*unix.Stat_t{"bin2": &st, "link": &link, "tmp": &tmp} {
		if err := unix.Lstat(filepath.Join(dir, name), s); err != nil {
			t.Fatal(err)
		}
	}
	if st.Mode != unix.S_IFREG|0o4755 || st.Uid != 12 || st.Gid != 34 || int64(st.Mtim.Sec) != when.Unix() || st.Nlink != 2 {
		t.Errorf("bin2: mode %o, owner %d:%d, time %d, %d links", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Nlink)
	}
	if link.Uid != 12 || tmp.Mode != unix.S_IFDIR|0o1777 || int64(tmp.Mtim.Sec) != when.Unix() {
		t.Errorf("link's owner %d; tmp: mode %o, time %d", link.Uid, tmp.Mode, tmp.Mtim.Sec)
	}
	buf := make([]byte, 100)
	for attr, want := range map[string]string{"security.capability": caps, "user.note": "hi"} {
		if n, err := unix.Lgetxattr(filepath.Join(dir, "bin"), attr, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("%s: %q, %v", attr, buf[:max(n, 0)], err)
		}
	}
	if _, err := unix.Lgetxattr(filepath.Join(dir, "bin"), "trusted.overlay.redirect", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("an attribute of the overlay filesystem was taken: %v", err)
	}
}

// A directory that an archive goes through without describing it looks as it does below, and a hard link may lead to a
// lower layer's file: layers that are made by tools, not by a file system's difference, count on both.
func TestLowerLayers(t *testing.T) {
	lower, err := unpackTest(t, Limits{}, nil,
		&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 7, ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		entry{name: "bin/tool", body: "tool", mode: 0o4711})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := unpackTest(t, Limits{}, []string{t.TempDir(), lower}, file("tmp/new", ""), hardlink("alias", "bin/tool"))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "tmp"), &st); err != nil || st.Mode&0o7777 != 0o1777 || st.Uid != 7 {
		t.Errorf("tmp: mode %o, owner %d, %v", st.Mode, st.Uid, err)
	}
	buf := make([]byte, 10)
	if n, err := unix.Lgetxattr(filepath.Join(dir, "tmp"), "user.a", buf); err != nil || string(buf[:n]) != "b" {
		t.Errorf("attribute %q, %v", buf[:max(n, 0)], err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "alias")); err != nil || string(b) != "tool" {
		t.Errorf("alias: %q, %v", b, err)
	}
	if err := unix.Lstat(filepath.Join(dir, "alias"), &st); err != nil || st.Mode&0o7777 != 0o4711 {
		t.Errorf("alias: mode %o, %v", st.Mode, err)
	}
}

// A bomb costs no more than its limit: it is refused while it is unpacked.
func TestBomb(t *testing.T) {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, pack := range map[string]func(testing.TB, []byte) []byte{"gzip": gzipped, "zstd": zstded} {
		t.Run(name, func(t *testing.T) {
			s, g := openStore(t), newRegistry(t)
			s.cfg.Limits.LayerBytes = 1 << 20
			builtImage{layers: [][]byte{plain.Bytes()}, compress: pack}.push(t, g, "bomb", "1")
			_, err := s.Pull(t.Context(), g.host+"/bomb:1", Auth{})
			if !errors.Is(err, ErrTooBig) {
				t.Errorf("error %v", err)
			}
			if u, err := diskUsage(s.cfg.Dir); err != nil || u.Bytes > 1<<20 {
				t.Errorf("%d bytes left, %v", u.Bytes, err)
			}
		})
	}
	t.Run("padding", func(t *testing.T) {
		s, g := openStore(t), newRegistry(t)
		layer := append(makeTar(t, entry{name: "f"}), make([]byte, 8<<20)...)
		builtImage{layers: [][]byte{layer}}.push(t, g, "bomb", "1")
		if _, err := s.Pull(t.Context(), g.host+"/bomb:1", Auth{}); !errors.Is(err, ErrUnsafeLayer) {
			t.Errorf("error %v", err)
		}
	})
}
