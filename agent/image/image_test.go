package image

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/cri/fakecri"
)

func puller(t *testing.T, rt *fakecri.Runtime, parallel int) *Puller {
	c, err := cri.Dial(rt.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p, err := New(Config{Images: c.Images, Parallel: parallel})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		image   string
		policy  corev1.PullPolicy
		present bool
		fails   bool
		reason  string // of the error
		events  string
	}{
		"present, if not present":     {"a:1", corev1.PullIfNotPresent, true, false, "", "Pulled"},
		"absent, if not present":      {"a:1", corev1.PullIfNotPresent, false, false, "", "Pulling Pulled"},
		"present, always":             {"a:1", corev1.PullAlways, true, false, "", "Pulling Pulled"},
		"present, always, no network": {"a:1", corev1.PullAlways, true, true, ErrImagePull, "Pulling Failed"},
		"absent, never":               {"a:1", corev1.PullNever, false, false, ErrImageNeverPull, "ErrImageNeverPull"},
		"present, never":              {"a:1", corev1.PullNever, true, false, "", "Pulled"},
		"absent, cannot be pulled":    {"a:1", corev1.PullIfNotPresent, false, true, ErrImagePull, "Pulling Failed"},
		"not a name":                  {"A:::b", corev1.PullIfNotPresent, false, false, ErrInvalidImageName, "InspectFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			rt := fakecri.New()
			if c.present {
				rt = fakecri.New(c.image)
			}
			if c.fails {
				rt.OnPull = func(*runtimeapi.PullImageRequest) error { return status.Error(codes.Unknown, "no route") }
			}
			var events []string
			_, err := puller(t, rt, 1).Ensure(t.Context(), Request{
				Pod: &corev1.Pod{}, Image: c.image, Policy: c.policy, Record: func(_, reason, _ string) { events = append(events, reason) },
			})
			var e *Error
			if errors.As(err, &e); (e == nil) != (c.reason == "") || e != nil && e.Reason != c.reason {
				t.Errorf("error %v, want reason %q", err, c.reason)
			}
			if got := strings.Join(events, " "); got != c.events {
				t.Errorf("events %q, want %q", got, c.events)
			}
		})
	}
}

func TestPullBackoff(t *testing.T) {
	rt := fakecri.New()
	rt.OnPull = func(*runtimeapi.PullImageRequest) error { return status.Error(codes.Unknown, "no route") }
	p := puller(t, rt, 1)
	now := time.Unix(1000, 0)
	p.now = func() time.Time { return now }
	try := func() *Error {
		_, err := p.Ensure(t.Context(), Request{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, Image: "a:1", Record: func(_, _, _ string) {}})
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("error %v", err)
		}
		return e
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		if e := try(); e.Reason != ErrImagePull || e.RetryAt.Sub(now) != want*time.Second {
			t.Errorf("%s, again in %v, want %v s", e.Reason, e.RetryAt.Sub(now), int(want))
		}
		if e := try(); e.Reason != ImagePullBackOff || !strings.HasPrefix(e.Message, `Back-off pulling image "a:1": ErrImagePull: failed to pull image "a:1"`) {
			t.Errorf("in back-off: %s %s", e.Reason, e.Message)
		}
		now = now.Add(want * time.Second)
	}
	p.Forget("u")
	if e := try(); e.RetryAt.Sub(now) != firstBackoff {
		t.Error("a pod that is gone left its back-off behind")
	}
}

// Many pods that want one image pull it once; different images keep to the bound.
func TestParallelPulls(t *testing.T) {
	rt := fakecri.New()
	var pulls, now, most atomic.Int32
	rt.OnPull = func(*runtimeapi.PullImageRequest) error {
		pulls.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(20 * time.Millisecond)
		now.Add(-1)
		return nil
	}
	p := puller(t, rt, 2)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			image := []string{"a:1", "b:1", "c:1", "d:1"}[i%4]
			if _, err := p.Ensure(t.Context(), Request{Pod: &corev1.Pod{}, Image: image, Record: func(_, _, _ string) {}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if pulls.Load() != 4 || most.Load() > 2 {
		t.Errorf("%d pulls of 4 images, %d at once with 2 allowed", pulls.Load(), most.Load())
	}
}

func TestVictims(t *testing.T) {
	now := time.Unix(10_000, 0)
	img := func(id string) *runtimeapi.Image { return &runtimeapi.Image{Id: id} }
	pinned := img("pinned")
	pinned.Pinned = true
	old := now.Add(-time.Hour)
	seen := map[string]sighting{
		"used": {old, now}, "long-ago": {old, now.Add(-30 * time.Minute)}, "lately": {old, now.Add(-time.Minute)}, "never": {old, time.Time{}},
		"new": {now, time.Time{}}, "pinned": {old, time.Time{}},
	}
	var got []string
	for _, v := range victims([]*runtimeapi.Image{img("used"), img("lately"), img("long-ago"), img("never"), img("new"), pinned}, seen, now, 2*time.Minute) {
		got = append(got, v.Id)
	}
	if want := []string{"never", "long-ago", "lately"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
