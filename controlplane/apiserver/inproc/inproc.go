// Package inproc carries HTTP requests to a handler of the same process: no socket, no TLS, no HTTP/2 frames and none
// of their buffers. The control plane's own clients use it.
//
// Reads: nothing. Writes: nothing.
package inproc

import (
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Transport is an http.RoundTripper whose handler is set after clients were made from it. Requests wait for it.
type Transport struct {
	open    chan struct{}
	once    sync.Once
	handler http.Handler
}

var _ http.RoundTripper = (*Transport)(nil)

// New returns a transport that is still closed.
func New() *Transport { return &Transport{open: make(chan struct{})} }

// SetHandler opens the transport, once.
func (t *Transport) SetHandler(h http.Handler) {
	t.once.Do(func() {
		t.handler = h
		close(t.open)
	})
}

// RoundTrip runs the handler in a goroutine of its own and returns as soon as it has written the response's header.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-t.open:
	case <-req.Context().Done():
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, req.Context().Err()
	}
	in := req.Clone(req.Context())
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := newWriter(req)
	go func() {
		defer func() {
			_ = in.Body.Close()
			if r := recover(); r != nil {
				w.finish(fmt.Errorf("the request's handler panicked: %v", r))
				return
			}
			w.finish(nil)
		}()
		t.handler.ServeHTTP(w, in)
	}()
	select {
	case <-w.started:
	case <-req.Context().Done():
		w.pipe.abandon()
		return nil, req.Context().Err()
	}
	if err := w.failed(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)),
		StatusCode:    w.code,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          w.pipe,
		ContentLength: -1,
		Request:       req,
	}, nil
}

// writer is the http.ResponseWriter of one request. It has the methods of HTTP/2's: Flush and CloseNotify, no Hijack.
type writer struct {
	header  http.Header
	sent    http.Header // what the client sees: later changes to header don't reach it
	code    int
	started chan struct{}
	pipe    *pipe
	closed  chan bool
}

var (
	_ http.Flusher       = (*writer)(nil)
	_ http.CloseNotifier = (*writer)(nil) //nolint:staticcheck // the API server's response wrappers ask for it
	_ io.ReaderFrom      = (*writer)(nil)
)

func newWriter(req *http.Request) *writer {
	return &writer{header: http.Header{}, started: make(chan struct{}), pipe: newPipe(req.Context())}
}

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(code int) {
	if w.code != 0 || code < 200 {
		return
	}
	w.code = code
	w.sent = w.header.Clone()
	close(w.started)
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(p)
}

func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

func (w *writer) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify never fires: the request's context tells of a client that went away.
func (w *writer) CloseNotify() <-chan bool {
	if w.closed == nil {
		w.closed = make(chan bool, 1)
	}
	return w.closed
}

func (w *writer) finish(err error) {
	w.pipe.finish(err)
	if w.code == 0 && err == nil {
		w.WriteHeader(http.StatusOK)
	} else if w.code == 0 {
		close(w.started)
	}
}

func (w *writer) failed() error {
	if w.code == 0 {
		return w.pipe.failure()
	}
	return nil
}
