package inproc

import (
	"context"
	"io"
	"sync"
)

// pipeBound is what a writer may be ahead of its reader before it waits: a slow watcher must slow its server down.
const pipeBound = 256 << 10

// pipe is a response's body: a bounded buffer between the handler and the client.
type pipe struct {
	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte
	off      int
	done     bool // the handler has returned
	gone     bool // the client has closed the body
	err      error
	unlisten func() bool
}

func newPipe(ctx context.Context) *pipe {
	p := &pipe{}
	p.changed.L = &p.mu
	p.unlisten = context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.done && p.err == nil {
			p.err = ctx.Err()
		}
		p.changed.Broadcast()
	})
	return p
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf)-p.off > pipeBound && !p.gone && p.err == nil {
		p.changed.Wait()
	}
	if p.gone {
		return 0, io.ErrClosedPipe
	}
	if p.err != nil {
		return 0, p.err
	}
	p.buf = append(p.buf, b...)
	p.changed.Broadcast()
	return len(b), nil
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.off == len(p.buf) {
		switch {
		case p.gone:
			return 0, io.ErrClosedPipe
		case p.err != nil:
			return 0, p.err
		case p.done:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
	n := copy(b, p.buf[p.off:])
	if p.off += n; p.off == len(p.buf) {
		p.off, p.buf = 0, p.buf[:0]
		if cap(p.buf) > 16<<10 {
			p.buf = nil // a watch's first burst shouldn't stay in memory for its hours
		}
	}
	p.changed.Broadcast()
	return n, nil
}

// Close is the client's.
func (p *pipe) Close() error {
	p.abandon()
	return nil
}

func (p *pipe) abandon() {
	p.unlisten()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone, p.buf, p.off = true, nil, 0
	p.changed.Broadcast()
}

func (p *pipe) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}

func (p *pipe) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
