package source

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/agent/podworker"
)

// sink writes down what it is told.
type sink struct {
	mu  sync.Mutex
	log []string
	has map[types.UID]bool
}

func (s *sink) Has(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has[uid]
}

func (s *sink) Set(d podworker.Desired) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := "api"
	if d.Static {
		if kind = "static"; d.Mirror != nil {
			kind = "mirrored"
		}
	}
	s.log = append(s.log, fmt.Sprintf("set %s %s", kind, d.Pod.Name))
}

func (s *sink) Remove(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, "remove "+string(uid))
}

func (s *sink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.log, ", ")
	s.log = nil
	return out
}

func apiPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name + "-uid"), Generation: 1},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestAPIPods(t *testing.T) {
	s := &sink{}
	disk, err := NewCheckpoint(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := New("n1", nil, s, disk, slog.New(slog.DiscardHandler))
	p.setStatic(nil)
	store := (*podStore)(p)
	a, b := apiPod("a"), apiPod("b")
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return store.Replace([]any{a, b}, "1") }, "set api a, set api b"},
		{func() error { return store.Update(a) }, "set api a"},
		{func() error { return store.Delete(a) }, "remove a-uid"},
		{func() error { return store.Replace([]any{a}, "2") }, "set api a, remove b-uid"}, // what a broken watch missed
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := s.take(); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
	if !closed(p.Synced()) {
		t.Error("not synced after both lists")
	}

	// Another run, without the API server, begins with what was left.
	disk.flush()
	again, err := NewCheckpoint(disk.dir, disk.log)
	if err != nil {
		t.Fatal(err)
	}
	p = New("n1", nil, s, again, slog.New(slog.DiscardHandler))
	p.Restore()
	if got := s.take(); got != "set api a" {
		t.Errorf("restored %q, want a alone", got)
	}
}

// Static pods wait for nobody; the mirror comes and goes beside them.
func TestMirrors(t *testing.T) {
	s := &sink{}
	p := New("n1", nil, s, nil, slog.New(slog.DiscardHandler))
	static, err := Decode([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}"), "/m/web.yaml", "n1")
	if err != nil {
		t.Fatal(err)
	}
	p.setStatic(map[string]*corev1.Pod{key(static): static})
	if got := s.take(); got != "set static web-n1" {
		t.Errorf("manifest: %q", got)
	}
	mirror := mirrorOf(static, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}})
	mirror.UID = "mirror"
	store := (*podStore)(p)
	_ = store.Add(mirror)
	if got := s.take(); got != "set mirrored web-n1" {
		t.Errorf("mirror: %q", got)
	}
	old := mirror.DeepCopy()
	old.Annotations[AnnotationMirror] = "of another manifest"
	_ = store.Update(old)
	if got := s.take(); got != "set static web-n1" {
		t.Errorf("a mirror of something else: %q", got)
	}
	_ = store.Delete(old)
	s.take()
	p.setStatic(nil)
	if got := s.take(); got != "remove "+string(static.UID) {
		t.Errorf("manifest gone: %q", got)
	}
}

func TestManifestDirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, image: i}]}"
	write("a.yaml", fmt.Sprintf(pod, "a"))
	write("bad.yaml", "kind: [")
	write(".hidden.yaml", fmt.Sprintf(pod, "hidden"))
	s := &sink{}
	p := New("n1", nil, s, nil, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- p.RunManifests(t.Context(), dir) }()
	expect := func(want string) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got := s.take(); got != "" {
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				return
			}
		}
		t.Fatalf("%q never came", want)
	}
	expect("set static a-n1")
	write("b.yaml", fmt.Sprintf(pod, "b"))
	expect("set static b-n1")
	b, _ := readManifest(filepath.Join(dir, "b.yaml"), "n1")
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	expect("remove " + string(b.UID))
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "a manifest holds a v1 Pod",
		"apiVersion: v1\nkind: Service":   "a manifest holds a v1 Pod",
		"apiVersion: v1\nkind: Pod\nx: 1": "unknown field",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: A_}\nspec: {containers: [{name: c, image: i}]}":                                               "metadata.name",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}":                                                                   "spec.containers: required",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}":                                                          "image is required",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}, {name: c, image: i}]}":                           "used twice",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {serviceAccountName: x, containers: [{name: c, image: i}]}":                         "service accounts",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {volumes: [{name: v, secret: {secretName: s}}], containers: [{name: c, image: i}]}": "can't refer to API objects",
	} {
		if _, err := Decode([]byte(text), "f", "n1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if pod, err := Decode(b, "f", "n1"); err == nil && len(pod.Spec.Containers) == 0 {
			t.Error("a pod without containers")
		}
	})
}

// A file that a crash or a bad disk has damaged is left out, whatever is in it.
func FuzzCheckpoint(f *testing.F) {
	good, err := apiPod("a").Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{0xff, 0x00, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "a-uid.pod")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if pod, err := read(path); err == nil && len(pod.Spec.Containers) == 0 {
			t.Error("a pod without containers")
		}
	})
}

// mirrorAPI counts what is done to mirrors.
type mirrorAPI struct{ created, deleted []string }

func (*mirrorAPI) ListPods(context.Context, metav1.ListOptions) (*corev1.PodList, error) {
	return nil, nil
}

func (*mirrorAPI) WatchPods(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return nil, nil
}
func (*mirrorAPI) Node(context.Context) (*corev1.Node, error) { return &corev1.Node{}, nil }
func (a *mirrorAPI) CreatePod(_ context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	a.created = append(a.created, pod.Name)
	return pod, nil
}

func (a *mirrorAPI) DeletePod(_ context.Context, _, name string, _ types.UID) error {
	a.deleted = append(a.deleted, name)
	return nil
}

// Regression: the mirror of a static pod went with the manifest, while the pod was still in its grace period.
func TestMirrorStaysUntilThePodHasEnded(t *testing.T) {
	s, api := &sink{has: map[types.UID]bool{}}, &mirrorAPI{}
	p := New("n1", api, s, nil, slog.New(slog.DiscardHandler))
	_ = (*podStore)(p).Replace(nil, "1")
	static, err := Decode([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n"), "/m/web.yaml", "n1")
	if err != nil {
		t.Fatal(err)
	}
	p.setStatic(map[string]*corev1.Pod{key(static): static})
	if err := p.reconcileMirrors(t.Context()); err != nil || len(api.created) != 1 {
		t.Fatalf("created %v, %v", api.created, err)
	}
	mirror := mirrorOf(static, &corev1.Node{})
	mirror.UID = "mirror"
	_ = (*podStore)(p).Add(mirror)
	s.has[static.UID] = true // in its grace period
	p.setStatic(map[string]*corev1.Pod{})
	if err := p.reconcileMirrors(t.Context()); err != nil || len(api.deleted) != 0 {
		t.Errorf("deleted %v while the pod ends, %v", api.deleted, err)
	}
	s.has[static.UID] = false
	if p.Gone(static.UID); len(p.wake) == 0 {
		t.Error("nobody looks after the pod's end")
	}
	if err := p.reconcileMirrors(t.Context()); err != nil || len(api.deleted) != 1 {
		t.Errorf("deleted %v after the pod's end, %v", api.deleted, err)
	}
}
