package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A layer's integrity is kept in two forms. The tree digest covers everything but content and times: checking it costs
// an lstat a file. The file "sums" holds a checksum of each regular file's content (12 bytes: hash of the path, CRC-32C),
// written while the layer is unpacked: checking it reads the layer.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged says what differs.
var errDamaged = errors.New("damaged")

func pathKey(path string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, path)
	return h.Sum64()
}

// writeSum records a file's checksum; a later record of the same path counts.
func writeSum(w io.Writer, path string, sum uint32) error {
	var rec [12]byte
	binary.LittleEndian.PutUint64(rec[:8], pathKey(path))
	binary.LittleEndian.PutUint32(rec[8:], sum)
	_, err := w.Write(rec[:])
	return err
}

func readSums(path string) (map[uint64]uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size()%12 != 0 {
		return nil, fmt.Errorf("%w: the checksums have %d bytes", errDamaged, st.Size())
	}
	sums := make(map[uint64]uint32, st.Size()/12)
	r := bufio.NewReaderSize(f, 64<<10)
	var rec [12]byte
	for {
		if _, err := io.ReadFull(r, rec[:]); err == io.EOF {
			return sums, nil
		} else if err != nil {
			return nil, err
		}
		sums[binary.LittleEndian.Uint64(rec[:8])] = binary.LittleEndian.Uint32(rec[8:])
	}
}

// fingerprint walks a layer's tree and returns its digest. With sums, it reads every file and fails at the first whose
// content differs.
func fingerprint(dir string, sums map[uint64]uint32) (string, error) {
	h := sha256.New()
	buf := make([]byte, 64<<10)
	var walk func(rel string) error
	walk = func(rel string) error {
		abs := filepath.Join(dir, rel)
		var st unix.Stat_t
		if err := unix.Lstat(abs, &st); err != nil {
			return fmt.Errorf("stat %s: %w", rel, err)
		}
		kind := st.Mode & unix.S_IFMT
		size, link := int64(0), ""
		switch kind {
		case unix.S_IFREG:
			size = st.Size
			if want, ok := sums[pathKey(rel)]; ok {
				if err := checkFile(abs, want, buf); err != nil {
					return fmt.Errorf("%s: %w", rel, err)
				}
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(abs)
			if err != nil {
				return err
			}
			link = target
		}
		fmt.Fprintf(h, "%q %o %d %d %d %d %q\n", rel, st.Mode, st.Uid, st.Gid, size, st.Rdev, link)
		if kind != unix.S_IFDIR {
			return nil
		}
		names, err := os.ReadDir(abs) // sorted
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := walk(filepath.Join(rel, n.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(""); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func checkFile(path string, want uint32, buf []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	crc := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(struct{ io.Writer }{crc}, struct{ io.Reader }{f}, buf); err != nil {
		return err
	}
	if crc.Sum32() != want {
		return fmt.Errorf("%w: its content is not what was unpacked", errDamaged)
	}
	return nil
}

// verifyLayer compares a layer with what was unpacked; thorough reads the content, too.
func (s *Store) verifyLayer(dir string, info layerInfo, thorough bool) error {
	if info.Tree == "" {
		return fmt.Errorf("%w: it has no checksum", errDamaged)
	}
	var sums map[uint64]uint32
	if thorough {
		var err error
		if sums, err = readSums(filepath.Join(dir, "sums")); err != nil {
			return err
		}
	}
	tree, err := fingerprint(filepath.Join(dir, "fs"), sums)
	if err != nil {
		return err
	}
	if tree != info.Tree {
		return fmt.Errorf("%w: its files are not those that were unpacked", errDamaged)
	}
	return nil
}
