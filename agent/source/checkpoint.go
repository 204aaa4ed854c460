package source

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pods are written when no more have come for lull, or patience after the first: while pods start, that comes first (ADR 0340).
// A power cut within that time costs those that it would have cost had it come a moment earlier: they wait for the API server.
const lull, patience = 100 * time.Millisecond, 2 * time.Second

// Checkpoint keeps the API server's pods of this node on disk, one file a pod, so that after a reboot they start without
// it. Only what a pod is counts, not its status: a file is written when the spec or the metadata that pods can see change.
type Checkpoint struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	known map[types.UID]string      // version that is on disk
	queue map[types.UID]*corev1.Pod // nil: to be removed
	wake  chan struct{}             // the queue has something
	hurry chan struct{}             // and it is a removal
}

// NewCheckpoint keeps pods in dir.
func NewCheckpoint(dir string, log *slog.Logger) (*Checkpoint, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil { // specs may hold secrets in their environment
		return nil, fmt.Errorf("checkpoint directory: %w", err)
	}
	half, _ := filepath.Glob(filepath.Join(dir, "*.new")) // writes that a crash cut off
	for _, path := range half {
		_ = os.Remove(path)
	}
	return &Checkpoint{dir: dir, log: log, known: map[types.UID]string{}, queue: map[types.UID]*corev1.Pod{}, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}, nil
}

func version(pod *corev1.Pod) string {
	return fmt.Sprint(pod.Generation, pod.Labels, pod.Annotations, pod.DeletionTimestamp != nil, pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
}

// put queues a pod for writing: the disk isn't on the way of its start.
func (c *Checkpoint) put(pod *corev1.Pod) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := version(pod); c.known[pod.UID] != v {
		c.known[pod.UID] = v
		c.enqueue(pod.UID, pod)
	}
}

func (c *Checkpoint) remove(uid types.UID) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, uid)
	c.enqueue(uid, nil)
}

// prune removes the pods that aren't among keep: those that went while no agent ran, or whose removal a kill cut off.
func (c *Checkpoint) prune(keep map[types.UID]bool) {
	if c == nil {
		return
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		c.log.Warn("checkpointed pods not read", "dir", c.dir, "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		if uid, ok := strings.CutSuffix(e.Name(), ".pod"); ok && !keep[types.UID(uid)] {
			delete(c.known, types.UID(uid))
			c.enqueue(types.UID(uid), nil)
		}
	}
}

func (c *Checkpoint) enqueue(uid types.UID, pod *corev1.Pod) {
	c.queue[uid] = pod
	if pod == nil {
		signal(c.hurry)
	}
	signal(c.wake)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes until done is closed.
func (c *Checkpoint) Run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			c.flush()
			return
		case <-c.wake:
			c.settle(done)
			c.flush()
		}
	}
}

// settle waits for the lull, but ends it when a pod is to be removed: that costs little, and the pod must not come back.
func (c *Checkpoint) settle(done <-chan struct{}) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-done:
			return
		case <-c.hurry:
			return
		case <-time.After(lull):
		}
		select {
		case <-c.wake:
		default:
			return
		}
	}
}

func (c *Checkpoint) flush() {
	c.mu.Lock()
	queue := c.queue
	c.queue = map[types.UID]*corev1.Pod{}
	c.mu.Unlock()
	for uid, pod := range queue {
		if err := c.write(uid, pod); err != nil {
			c.log.Warn("pod not kept on disk: after a reboot it waits for the API server", "uid", uid, "err", err)
		}
	}
}

func (c *Checkpoint) path(uid types.UID) string {
	return filepath.Join(c.dir, filepath.Base(string(uid))+".pod")
}

// write replaces the pod's file atomically, and has it on the disk before its name says so.
func (c *Checkpoint) write(uid types.UID, pod *corev1.Pod) error {
	path := c.path(uid)
	if pod == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := pod.Marshal()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new") // a full disk leaves half of it
	}
	return err
}

// load reads the pods of the last run that had not ended. A file that can't be read is left out and removed: the API
// server has the truth.
func (c *Checkpoint) load(log *slog.Logger) []*corev1.Pod {
	if c == nil {
		return nil
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		log.Warn("checkpointed pods not read", "dir", c.dir, "err", err)
		return nil
	}
	var out []*corev1.Pod
	for _, e := range entries {
		path := filepath.Join(c.dir, e.Name())
		if !strings.HasSuffix(e.Name(), ".pod") {
			continue
		}
		pod, err := read(path)
		if err != nil || string(pod.UID)+".pod" != e.Name() {
			log.Warn("checkpointed pod is damaged, left out", "file", path, "err", err)
			_ = os.Remove(path)
			continue
		}
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			out = append(out, pod)
		}
	}
	return out
}

func read(path string) (pod *corev1.Pod, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer func() { // the decoder is generated for trusted peers; a disk isn't one
		if r := recover(); r != nil {
			err = fmt.Errorf("not a pod: %v", r)
		}
	}()
	pod = &corev1.Pod{}
	if err := pod.Unmarshal(b); err != nil {
		return nil, err
	}
	if len(pod.Spec.Containers) == 0 {
		return nil, errors.New("a pod without containers")
	}
	return pod, nil
}
