package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how much memory a zstd layer may ask for: level 20 of zstd needs it, the usual levels 8 MiB or less.
const maxWindow = 32 << 20

// decompress tells gzip, zstd and plain tar apart by their first bytes (media types lie in the field) and returns the
// plain stream. zstd decoders hold a window of some megabytes: the pool hands one on to the next layer.
func decompress(r io.Reader, decoders *sync.Pool) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the first bytes: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, _ := decoders.Get().(*zstd.Decoder)
		if z == nil {
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
				return nil, fmt.Errorf("zstd: %w", err)
			}
		}
		if err := z.Reset(br); err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &pooled{z, decoders}, nil
	}
	return io.NopCloser(br), nil
}

// pooled gives its decoder back.
type pooled struct {
	*zstd.Decoder
	pool *sync.Pool
}

func (p *pooled) Close() error {
	if err := p.Reset(nil); err == nil {
		p.pool.Put(p.Decoder)
	}
	return nil
}
