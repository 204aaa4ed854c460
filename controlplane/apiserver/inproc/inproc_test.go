package inproc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func client(h http.HandlerFunc) *http.Client {
	t := New()
	t.SetHandler(h)
	return &http.Client{Transport: t}
}

func request(t *testing.T, ctx context.Context, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://x/path?q=1", body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	c := client(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Path", r.URL.Path+"?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "yes")
		_, _ = w.Write(bytes.ToUpper(body))
	})
	r, err := c.Do(request(t, t.Context(), strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || string(body) != "HELLO" || r.StatusCode != http.StatusTeapot || r.Header.Get("X-Path") != "/path?q=1" || r.Header.Get("X-Late") != "" {
		t.Errorf("%d %v %q %v", r.StatusCode, r.Header, body, err)
	}
}

func TestNothingWrittenIsOK(t *testing.T) {
	r, err := client(func(http.ResponseWriter, *http.Request) {}).Do(request(t, t.Context(), nil))
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%v %v", r, err)
	}
}

func TestStreamsBeforeTheEnd(t *testing.T) {
	release := make(chan struct{})
	c := client(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("one"))
		w.(http.Flusher).Flush()
		<-release
		_, _ = w.Write([]byte("two"))
	})
	r, err := c.Do(request(t, t.Context(), nil))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, err := r.Body.Read(buf)
	if err != nil || string(buf[:n]) != "one" {
		t.Fatalf("%q %v", buf[:n], err)
	}
	close(release)
	rest, err := io.ReadAll(r.Body)
	if err != nil || string(rest) != "two" {
		t.Errorf("%q %v", rest, err)
	}
}

// A client that goes away must end its handler: a watch lives until its request's context ends or its writes fail.
func TestClientGoesAway(t *testing.T) {
	for _, how := range []string{"cancel", "close"} {
		t.Run(how, func(t *testing.T) {
			ended := make(chan error, 1)
			c := client(func(w http.ResponseWriter, r *http.Request) {
				for {
					if _, err := w.Write([]byte("x")); err != nil {
						ended <- err
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := c.Do(request(t, ctx, nil))
			if err != nil {
				t.Fatal(err)
			}
			if how == "cancel" {
				cancel()
			} else if err := r.Body.Close(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the handler goes on")
			}
		})
	}
}

// A writer may be ahead of its reader by a bounded amount only.
func TestSlowReaderSlowsTheWriter(t *testing.T) {
	wrote := make(chan int, 1000)
	c := client(func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		for i := range 20 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			wrote <- i
		}
	})
	r, err := c.Do(request(t, t.Context(), nil))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if n := len(wrote); n > 6 {
		t.Errorf("%d chunks of 64 KiB were taken before anything was read", n)
	}
	all, err := io.ReadAll(r.Body)
	if err != nil || len(all) != 20*64<<10 {
		t.Errorf("%d bytes, %v", len(all), err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	_, err := client(func(http.ResponseWriter, *http.Request) { panic("boom") }).Do(request(t, t.Context(), nil))
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("%v", err)
	}
}

func TestWaitsForTheHandler(t *testing.T) {
	tr := New()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (&http.Client{Transport: tr}).Do(request(t, ctx, nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { tr.SetHandler(http.NotFoundHandler()) })
	r, err := (&http.Client{Transport: tr}).Do(request(t, t.Context(), nil))
	if err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("%v %v", r, err)
	}
}
