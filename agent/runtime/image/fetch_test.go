package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// cut serves the first n bytes of what would be the answer and then breaks the connection.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// serve answers a blob request with an arbitrary status and Content-Range.
func serve(w http.ResponseWriter, status int, contentRange string, body []byte) bool {
	if contentRange != "" {
		w.Header().Set("Content-Range", contentRange)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return true
}

// cutThen breaks the first answer off after 300,000 bytes and answers the second request by then.
func cutThen(then func(w http.ResponseWriter, blob []byte) bool) func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
	return func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
		return func(w http.ResponseWriter, _ *http.Request, n int) bool {
			switch n {
			case 1:
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				_, _ = (&cut{w, 300_000}).Write(blob)
			case 2:
				return then(w, blob)
			}
			return false
		}
	}
}

func dig(s string) digest.Digest { return digest.Digest(s) }

const blobSize = 1 << 20

// pushOne pushes an image of one layer of random data and returns the layer's blob.
func pushOne(t *testing.T, g *testRegistry) ([]byte, string) {
	t.Helper()
	layer := makeTar(t, entry{name: "data", body: noise(blobSize, 1)})
	_, layers := builtImage{layers: [][]byte{layer}}.push(t, g, "app", "1")
	return gzipped(t, layer), layers[0].Digest.String()
}

func leftBlobs(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A connection that breaks off is continued where it was; answers that don't continue it begin anew; content that is
// wrong is never kept (OCI distribution specification, "Pulling blobs"; RFC 9110, section 14).
func TestBrokenDownloads(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool
		want  []string // Range headers, "" for a request of the whole
		err   error
	}{
		"continued": {
			fault: func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					if n == 1 {
						w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
						_, _ = (&cut{w, 300_000}).Write(blob)
					}
					return false
				}
			},
			want: []string{"", "bytes=300000-%d"},
		},
		"the server doesn't do ranges": {
			fault: func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					if n == 1 {
						w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
						_, _ = (&cut{w, 300_000}).Write(blob)
					}
					return serve(w, http.StatusOK, "", blob)
				}
			},
			want: []string{"", "bytes=300000-%d"},
		},
		"another range than asked for": {
			fault: cutThen(func(w http.ResponseWriter, blob []byte) bool {
				return serve(w, http.StatusPartialContent, fmt.Sprintf("bytes 200000-%d/%d", len(blob)-1, len(blob)), blob[200_000:])
			}),
			want: []string{"", "bytes=300000-%d", ""},
		},
		"another size": {
			fault: cutThen(func(w http.ResponseWriter, blob []byte) bool {
				return serve(w, http.StatusPartialContent, fmt.Sprintf("bytes 300000-%d/%d", len(blob)-1, len(blob)+7), blob[300_000:])
			}),
			want: []string{"", "bytes=300000-%d", ""},
		},
		"no Content-Range": {
			fault: cutThen(func(w http.ResponseWriter, blob []byte) bool {
				return serve(w, http.StatusPartialContent, "", blob[300_000:])
			}),
			want: []string{"", "bytes=300000-%d", ""},
		},
		"not satisfiable": {
			fault: cutThen(func(w http.ResponseWriter, blob []byte) bool {
				return serve(w, http.StatusRequestedRangeNotSatisfiable, "", nil)
			}),
			want: []string{"", "bytes=300000-%d", ""},
		},
		"wrong content": {
			fault: func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				bad := slices.Clone(blob)
				bad[5000] ^= 1
				return func(w http.ResponseWriter, r *http.Request, n int) bool { return serve(w, http.StatusOK, "", bad) }
			},
			want: []string{""}, err: errMismatch,
		},
		"too short": {
			fault: func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					return serve(w, http.StatusOK, "", blob[:1000])
				}
			},
			want: []string{""}, err: errMismatch,
		},
		"too long, chunked": {
			fault: func(blob []byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush() // no Content-Length
					_, _ = w.Write(append(slices.Clone(blob), blob...))
					return true
				}
			},
			want: []string{""}, // what follows the last byte is not read
		},
		"refused": {
			fault: func([]byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					return serve(w, http.StatusForbidden, "", nil)
				}
			},
			want: []string{""}, err: ErrDenied,
		},
		"gone": {
			fault: func([]byte) func(w http.ResponseWriter, r *http.Request, n int) bool {
				return func(w http.ResponseWriter, r *http.Request, n int) bool {
					return serve(w, http.StatusNotFound, "", nil)
				}
			},
			want: []string{""}, err: ErrNotFound,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, g := openStore(t), newRegistry(t)
			blob, d := pushOne(t, g)
			g.reset(d, c.fault(blob))
			_, err := s.Pull(t.Context(), g.host+"/app:1", Auth{})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			want := slices.Clone(c.want)
			for i, w := range want {
				if strings.Contains(w, "%d") {
					want[i] = fmt.Sprintf(w, len(blob)-1)
				}
			}
			if got := g.ranges(dig(d)); !slices.Equal(got, want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if left := leftBlobs(t, s); len(left) != 0 {
				t.Errorf("blobs left: %v", left)
			}
			if n := len(s.List()); (n == 1) != (err == nil) {
				t.Errorf("%d images after error %v", n, err)
			}
		})
	}
}

// What was downloaded outlives the runtime and the boot, and is not trusted: its digest decides.
func TestResumeAfterRestart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		want   []string
	}{
		"as it was": {func(*testing.T, string) {}, []string{"bytes=400000-%d"}},
		"damaged by a power cut": {func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 4096), 100_000); err != nil {
				t.Fatal(err)
			}
		}, []string{"bytes=400000-%d", ""}},
		"longer than the blob": {func(t *testing.T, path string) {
			if err := os.Truncate(path, 5*blobSize); err != nil {
				t.Fatal(err)
			}
		}, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, g := openStore(t), newRegistry(t)
			blob, d := pushOne(t, g)
			ctx, cancel := context.WithCancel(t.Context())
			g.reset(d, func(w http.ResponseWriter, r *http.Request, n int) bool {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				_, _ = w.Write(blob[:400_000])
				w.(http.Flusher).Flush()
				for { // until the client has all of it on disk
					if st, err := os.Stat(s.blobPath(dig(d))); err == nil && st.Size() == 400_000 {
						break
					}
					time.Sleep(time.Millisecond)
				}
				cancel() // the runtime is told to stop
				<-r.Context().Done()
				return true
			})
			if _, err := s.Pull(ctx, g.host+"/app:1", Auth{}); !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v", err)
			}
			if left := leftBlobs(t, s); len(left) != 1 {
				t.Fatalf("blobs left: %v", left)
			}
			c.change(t, s.blobPath(dig(d)))
			s.cfg.BootID = "the next boot"
			again, err := Open(s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.reset("", nil)
			if _, err := again.Pull(t.Context(), g.host+"/app:1", Auth{}); err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(c.want)
			for i, w := range want {
				if strings.Contains(w, "%d") {
					want[i] = fmt.Sprintf(w, len(blob)-1)
				}
			}
			if got := g.ranges(dig(d)); !slices.Equal(got, want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if left := leftBlobs(t, again); len(left) != 0 {
				t.Errorf("blobs left: %v", left)
			}
		})
	}
}

// A registry that always breaks off is given up after some attempts without worthwhile progress, and a mirror then goes
// on with what it has sent.
func TestFallBackContinues(t *testing.T) {
	s, bad, good := openStore(t), newRegistry(t), newRegistry(t)
	blob, d := pushOne(t, bad)
	pushOne(t, good)
	bad.reset(d, func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 1 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = (&cut{w, 500_000}).Write(blob)
		return true
	})
	good.reset("", nil)
	conf := fmt.Sprintf("mirrors:\n  registry.test:\n    endpoints: [%s, %s]\n", bad.URL, good.URL)
	if err := os.WriteFile(s.cfg.Registries, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), "registry.test/app:1", Auth{}); err != nil {
		t.Fatal(err)
	}
	if n := len(bad.ranges(dig(d))); n < fetchTries {
		t.Errorf("the first mirror was asked %d times", n)
	}
	if got, want := good.ranges(dig(d)), []string{fmt.Sprintf("bytes=500000-%d", len(blob)-1)}; !slices.Equal(got, want) {
		t.Errorf("the second mirror was asked for %q, want %q", got, want)
	}
}

// Layers come side by side, but not more than the bound; pulls of the same image fetch each blob once.
func TestParallelDownloads(t *testing.T) {
	s, g := openStore(t), newRegistry(t)
	var b builtImage
	for i := range 8 {
		b.layers = append(b.layers, makeTar(t, entry{name: fmt.Sprintf("f%d", i), body: noise(1000, uint64(i))}))
	}
	_, layers := b.push(t, g, "app", "1")
	var now, most atomic.Int32
	var mu sync.Mutex
	full := sync.NewCond(&mu)
	sizes := map[string]bool{}
	for _, l := range layers {
		sizes[l.Digest.String()] = true
	}
	g.reset("", func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !sizes[filepath.Base(r.URL.Path)] {
			return false // the config
		}
		mu.Lock()
		defer mu.Unlock()
		if c := now.Add(1); c > most.Load() {
			most.Store(c)
			full.Broadcast()
		}
		for most.Load() < int32(s.cfg.Downloads) { // nobody ends before as many are there as may be
			full.Wait()
		}
		now.Add(-1)
		return false
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), g.host+"/app:1", Auth{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != int32(s.cfg.Downloads) {
		t.Errorf("%d downloads at once, want %d", most.Load(), s.cfg.Downloads)
	}
	if left := leftBlobs(t, s); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
	if len(s.busy) != 0 {
		t.Errorf("layers held for good: %v", s.busy)
	}
}

// The wait between attempts grows and ends with the context.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for i, longest := range []time.Duration{200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
			begin := time.Now()
			if err := pause(t.Context(), i+1); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took < longest*time.Millisecond/2 || took > longest*time.Millisecond {
				t.Errorf("after %d failures: %v", i+1, took)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := pause(ctx, 9); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Removing an image and starting containers don't wait for a download that takes its time.
func TestSlowPullBlocksNobody(t *testing.T) {
	s, g := openStore(t), newRegistry(t)
	if _, err := s.Import(t.Context(), strings.NewReader(string(dockerArchive(t, "other", makeTar(t, entry{name: "f", body: "1"}))))); err != nil {
		t.Fatal(err)
	}
	_, d := pushOne(t, g)
	asked, release := make(chan struct{}), make(chan struct{})
	g.reset(d, func(http.ResponseWriter, *http.Request, int) bool {
		close(asked)
		<-release
		return false
	})
	pulled := make(chan error, 1)
	go func() {
		_, err := s.Pull(context.Background(), g.host+"/app:1", Auth{})
		pulled <- err
	}()
	<-asked
	if err := s.Prepare("other", "c", nil); err != nil {
		t.Error(err)
	}
	if err := s.RemoveSnapshot("c"); err != nil {
		t.Error(err)
	}
	if err := s.Remove("other"); err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	if len(s.List()) != 1 {
		t.Error("the removal took what was being pulled")
	}
}

func TestTransient(t *testing.T) {
	for err, want := range map[error]bool{
		unix.ECONNRESET: true, errStalled: true, errMismatch: false, unix.ENOSPC: false, &statusError{code: 503}: false, context.Canceled: false,
	} {
		if transient(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}
