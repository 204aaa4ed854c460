package image

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/cri/fakecri"
)

func TestExcess(t *testing.T) {
	for _, c := range []struct {
		total, free uint64
		percent     int
		want        uint64
	}{
		{1000, 500, 50, 0}, {1000, 160, 84, 0}, {1000, 150, 85, 50}, {1000, 0, 100, 200}, {1000, 2000, 0, 0},
	} {
		if percent, want := excess(c.total, c.free, Thresholds{85, 80}); percent != c.percent || want != c.want {
			t.Errorf("%d of %d free: %d %%, %d to go; want %d %%, %d", c.free, c.total, percent, want, c.percent, c.want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{12: "12 B", 2048: "2.0 KiB", 3 << 29: "1.5 GiB", 5 << 40: "5.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// What a container uses, what a pod mounts and what is pinned stays, however full the disk is.
func TestCollect(t *testing.T) {
	rt := fakecri.New("r.io/used:1", "r.io/mounted:1", "r.io/unused:1")
	c, err := cri.Dial(rt.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	box, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: box.PodSandboxId, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "r.io/used:1"},
	}}); err != nil {
		t.Fatal(err)
	}
	var failed []string
	var pruned int
	g := &Collector{
		Images: c.Images, Runtime: c, Thresholds: Thresholds{High: 1, Low: 0}, MinAge: time.Minute, Log: slog.Default(),
		Failed:  func(reason, message string) { failed = append(failed, reason+": "+message) },
		Volumes: func() []string { return []string{"r.io/mounted:1"} },
		Removed: func(there func(string) bool, _ time.Time) { pruned++ },
		dir:     t.TempDir(), // on a disk that is certainly more than 1 per cent full, and can't be emptied
	}
	names := func() []string {
		list, err := c.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, img := range list.Images {
			out = append(out, img.RepoTags...)
		}
		slices.Sort(out)
		return out
	}
	now := time.Now()
	if err := g.Collect(t.Context(), now); err == nil { // all are younger than MinAge
		t.Error("nothing could be freed, and no error")
	}
	if got := names(); len(got) != 3 {
		t.Fatalf("too young to go: %v", got)
	}
	if err := g.Collect(t.Context(), now.Add(2*time.Minute)); err == nil {
		t.Error("not enough could be freed, and no error")
	}
	if got, want := names(), []string{"r.io/mounted:1", "r.io/used:1"}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if len(failed) != 2 || !strings.HasPrefix(failed[0], "FreeDiskSpaceFailed: Insufficient free disk space on the node's image filesystem (") {
		t.Errorf("events %q", failed)
	}
	if pruned != 1 {
		t.Errorf("records were pruned %d times", pruned)
	}
}

func TestMaximumAge(t *testing.T) {
	rt := fakecri.New("r.io/a:1")
	c, err := cri.Dial(rt.Serve(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	g := &Collector{Images: c.Images, Runtime: c, Thresholds: Thresholds{High: 100, Low: 99}, MaxAge: time.Hour, Log: slog.Default(), Failed: func(string, string) {}, dir: t.TempDir()}
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		left  int
	}{{0, 1}, {30 * time.Minute, 1}, {61 * time.Minute, 0}} {
		if err := g.Collect(t.Context(), now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		list, err := c.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		if err != nil || len(list.Images) != step.left {
			t.Errorf("after %v: %d images, %v", step.after, len(list.Images), err)
		}
	}
}
