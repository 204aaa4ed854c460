package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kept is a copy on disk of the objects that this node's pods refer to, for the time when the API server is out of
// reach: after a reboot, pods start with what they had. Files are readable by root alone.
type Kept struct {
	dir     string
	secrets bool // whether Secrets are kept, too
	log     *slog.Logger

	mu    sync.Mutex
	users map[Ref]map[types.UID]bool
	known map[Ref]string // resource version on disk

	disk sync.Mutex // one writer
}

// NewKept keeps objects in dir; without secrets, those that it holds from before go.
func NewKept(dir string, secrets bool, log *slog.Logger) (*Kept, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of kept ConfigMaps and Secrets: %w", err)
	}
	k := &Kept{dir: dir, secrets: secrets, log: log, users: map[Ref]map[types.UID]bool{}, known: map[Ref]string{}}
	if !secrets {
		old, _ := filepath.Glob(filepath.Join(dir, string(Secrets)+"_*"))
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				return nil, fmt.Errorf("remove a Secret that is to be kept no longer: %w", err)
			}
		}
	}
	return k, nil
}

// Use makes refs the objects that owner's pod refers to, and no others; nil ends its interest. What nobody refers to any
// more goes from the disk.
func (k *Kept) Use(owner types.UID, refs []Ref) {
	if k == nil {
		return
	}
	want := map[Ref]bool{}
	for _, r := range refs {
		want[r] = true
	}
	k.mu.Lock()
	var gone []Ref
	for r, by := range k.users {
		if by[owner] && !want[r] {
			if delete(by, owner); len(by) == 0 {
				delete(k.users, r)
				delete(k.known, r)
				gone = append(gone, r)
			}
		}
	}
	for r := range want {
		if k.users[r] == nil {
			k.users[r] = map[types.UID]bool{}
		}
		k.users[r][owner] = true
	}
	k.mu.Unlock()
	for _, r := range gone {
		k.write(r, "", nil)
	}
}

// Sweep removes what is on disk and isn't among refs: what pods referred to that went while nobody looked.
func (k *Kept) Sweep(refs []Ref) {
	if k == nil {
		return
	}
	keep := map[string]bool{}
	for _, r := range refs {
		keep[name(r)] = true
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		k.log.Warn("kept ConfigMaps and Secrets not looked through", "err", err)
		return
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.Remove(filepath.Join(k.dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				k.log.Warn("kept object not removed", "file", e.Name(), "err", err)
			}
		}
	}
}

func name(r Ref) string { return strings.Join([]string{string(r.Kind), r.Namespace, r.Name}, "_") }

// save brings the copy up to date, in the background: nobody's start waits for the disk. A nil object is one that there
// isn't.
func (k *Kept) save(r Ref, obj Object) {
	if k == nil || r.Kind == Secrets && !k.secrets || strings.ContainsRune(r.Namespace+r.Name, '/') {
		return
	}
	version := ""
	if obj != nil {
		version = obj.GetResourceVersion()
	}
	k.mu.Lock()
	old, known := k.known[r]
	same := len(k.users[r]) == 0 || known && old == version
	if !same {
		k.known[r] = version
	}
	k.mu.Unlock()
	if same {
		return
	}
	var content []byte
	if obj != nil {
		var err error
		if content, err = obj.(interface{ Marshal() ([]byte, error) }).Marshal(); err != nil { // now: the caller goes on to trim it
			k.log.Warn("object not kept on disk", "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "err", err)
			return
		}
	}
	go k.write(r, version, content)
}

// write replaces a file by content, or removes it where there is none.
func (k *Kept) write(r Ref, version string, content []byte) {
	k.disk.Lock()
	defer k.disk.Unlock()
	if content != nil {
		k.mu.Lock()
		current := k.known[r] == version
		k.mu.Unlock()
		if !current { // a newer one is on its way, or nobody wants it any more
			return
		}
	}
	if err := replace(filepath.Join(k.dir, name(r)), content); err != nil {
		k.log.Warn("object not kept on disk: after a reboot its pods wait for the API server", "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "err", err)
	}
}

func replace(path string, content []byte) error {
	if content == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new") // a full disk leaves half of it
	}
	return err
}

// load returns the copy, or nil. A damaged one counts as none: the API server has the truth.
func (k *Kept) load(r Ref) Object {
	if k == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(k.dir, name(r)))
	if err != nil {
		return nil
	}
	obj, err := decode(r.Kind, b)
	if err != nil || obj.GetNamespace() != r.Namespace || obj.GetName() != r.Name {
		k.log.Warn("kept object is damaged, left out", "kind", r.Kind, "namespace", r.Namespace, "name", r.Name, "err", err)
		return nil
	}
	return obj
}

func decode(kind Kind, b []byte) (_ Object, err error) {
	defer func() { // the decoder is generated for trusted peers; a disk isn't one
		if p := recover(); p != nil {
			err = fmt.Errorf("not an object: %v", p)
		}
	}()
	if kind == Secrets {
		s := &corev1.Secret{}
		return s, s.Unmarshal(b)
	}
	m := &corev1.ConfigMap{}
	return m, m.Unmarshal(b)
}

// OutOfReach tells whether an error says nothing about the object but that the API server couldn't be asked. Of several
// errors all must be such.
func OutOfReach(err error) bool {
	if err == nil {
		return false
	}
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		for _, e := range many.Unwrap() {
			if !OutOfReach(e) {
				return false
			}
		}
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		switch status.Status().Reason {
		case metav1.StatusReasonServerTimeout, metav1.StatusReasonTimeout, metav1.StatusReasonTooManyRequests, metav1.StatusReasonInternalError, metav1.StatusReasonServiceUnavailable:
			return true
		}
		return false
	}
	var urlErr *url.Error
	var netErr net.Error
	return errors.As(err, &urlErr) || errors.As(err, &netErr) || errors.Is(err, context.DeadlineExceeded)
}
