// Package userns gives pods that ask for a user namespace (hostUsers: false) ranges of the host's user and group
// numbers. No two pods of the node share one, and a pod keeps its own over restarts of the agent.
//
// Reads:  the subordinate numbers of the user "kubelet", if there is such a user (getsubids).
// Writes: <pods>/<uid>/userns, in the kubelet's own format.
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unit is what lengths and beginnings of ranges are multiples of: a pod has all of POSIX' 16-bit numbers.
const unit = 1 << 16

// DefaultLength is how many numbers a pod gets.
const DefaultLength = unit

// Config says where ranges are taken from and kept.
type Config struct {
	PodsDir string
	Length  int64 // of a pod's range; 0 means DefaultLength
	MaxPods int
	Log     *slog.Logger
	// Owned returns the numbers that the node may use; nil means Subordinate.
	Owned func(length uint32) (Range, error)
}

// Range is a run of user and group numbers of the host.
type Range struct{ First, Length uint32 }

// Ranges is safe for concurrent use.
type Ranges struct {
	dir    string
	length uint32
	first  uint32 // of the first slot
	slots  uint32
	log    *slog.Logger

	mu   sync.Mutex
	used map[uint32]types.UID // by slot
	pods map[types.UID]uint32
	next uint32
}

// New takes up what earlier runs have given to pods.
func New(cfg Config) (*Ranges, error) {
	length := uint32(DefaultLength)
	if cfg.Length != 0 {
		length = uint32(cfg.Length)
		if cfg.Length < 0 || cfg.Length >= 1<<32 || cfg.Length%unit != 0 {
			return nil, fmt.Errorf("userNamespaces.idsPerPod %d: it must be a multiple of %d below 2^32", cfg.Length, unit)
		}
	}
	if cfg.Owned == nil {
		cfg.Owned = Subordinate
	}
	owned, err := cfg.Owned(length)
	if err != nil {
		return nil, fmt.Errorf("numbers for user namespaces: %w", err)
	}
	if err := check(owned, length, cfg.MaxPods); err != nil {
		return nil, err
	}
	r := &Ranges{
		dir: cfg.PodsDir, length: length, first: owned.First, slots: owned.Length / length, log: cfg.Log,
		used: map[uint32]types.UID{}, pods: map[types.UID]uint32{},
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	// Nodes that share storage had better not give the same numbers to their first pods.
	r.next = rand.Uint32N(r.slots)
	return r, r.load()
}

// check says what is wrong with the node's own range.
func check(owned Range, length uint32, maxPods int) error {
	switch {
	case owned.First%length != 0:
		return fmt.Errorf("kubelet user assigned ID %d is not a multiple of %d: mend the line in /etc/subuid and /etc/subgid", owned.First, length)
	case owned.First < length: // the host's own users
		return fmt.Errorf("kubelet user assigned ID %d must be greater or equal to %d: mend the line in /etc/subuid and /etc/subgid", owned.First, length)
	case owned.Length%length != 0:
		return fmt.Errorf("kubelet user assigned IDs length %d is not a multiple of %d: mend the line in /etc/subuid and /etc/subgid", owned.Length, length)
	case owned.Length < length || int64(owned.Length/length) < int64(maxPods):
		return fmt.Errorf("kubelet user assigned IDs are not enough to support %d pods: lengthen the range in /etc/subuid and /etc/subgid, or lower maxPods", maxPods)
	}
	return nil
}

// load reads what pods have. A range that can't be told costs its pod the start of further containers, not the node.
func (r *Ranges) load() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("directory of the pods: %w", err)
	}
	for _, e := range entries {
		uid := types.UID(e.Name())
		slot, err := r.read(uid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && r.used[slot] != "" {
			err = fmt.Errorf("range picked for pod %q already taken", r.used[slot])
		}
		if err != nil {
			r.log.Warn("the user namespace of a pod is unreadable", "uid", uid, "err", err)
			continue
		}
		r.used[slot], r.pods[uid] = uid, slot
	}
	return nil
}

// mappings is the file's content.
type mappings struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

func (r *Ranges) path(uid types.UID) string { return filepath.Join(r.dir, string(uid), "userns") }

// read returns the slot that a pod's file says.
func (r *Ranges) read(uid types.UID) (uint32, error) {
	raw, err := os.ReadFile(r.path(uid))
	if err != nil {
		return 0, err
	}
	var m mappings
	if err := json.Unmarshal(raw, &m); err != nil {
		return 0, fmt.Errorf("invalid user namespace mappings file: %w", err)
	}
	if len(m.UIDs) != 1 || len(m.GIDs) != 1 || m.UIDs[0] != m.GIDs[0] || m.UIDs[0].ContainerID != 0 {
		return 0, errors.New("invalid user namespace configuration: want one mapping, the same for users and groups, that begins with 0")
	}
	from := m.UIDs[0]
	slot := (from.HostID - r.first) / r.length
	if from.Length != r.length || from.HostID < r.first || (from.HostID-r.first)%r.length != 0 || slot >= r.slots {
		return 0, fmt.Errorf("id %d, length %d is out of the node's range", from.HostID, from.Length)
	}
	return slot, nil
}

// For returns a pod's range, which it keeps until Release.
func (r *Ranges) For(uid types.UID) (Range, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot, known := r.pods[uid]
	if !known {
		if _, err := os.Lstat(r.path(uid)); err == nil { // a second range would leave its volumes to strangers
			_, err := r.read(uid)
			return Range{}, fmt.Errorf("user namespace: %w", cmpErr(err, errTaken))
		}
		var err error
		if slot, err = r.pick(); err != nil {
			return Range{}, err
		}
		if err := r.write(uid, r.rangeOf(slot)); err != nil {
			return Range{}, fmt.Errorf("create user namespace: %w", err)
		}
		r.used[slot], r.pods[uid] = uid, slot
	}
	return r.rangeOf(slot), nil
}

var errTaken = errors.New("its range is another pod's")

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (r *Ranges) rangeOf(slot uint32) Range { return Range{r.first + slot*r.length, r.length} }

// pick goes round: a range that became free a moment ago is the last to be taken again.
func (r *Ranges) pick() (uint32, error) {
	for range r.slots {
		slot := r.next
		r.next = (r.next + 1) % r.slots
		if r.used[slot] == "" {
			return slot, nil
		}
	}
	return 0, errors.New("could not find an empty slot to allocate a user namespace")
}

// write is durable before it returns: what pods write to their volumes bears these numbers.
func (r *Ranges) write(uid types.UID, own Range) error {
	m := []mapping{{HostID: own.First, Length: own.Length}}
	raw, err := json.Marshal(mappings{UIDs: m, GIDs: m})
	if err != nil {
		return err
	}
	path := r.path(uid)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(path), ".userns")
	file, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Release gives a pod's range back. None is success.
func (r *Ranges) Release(uid types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the user namespace of pod %s: %w", uid, err)
	}
	if slot, known := r.pods[uid]; known {
		delete(r.pods, uid)
		delete(r.used, slot)
	}
	return nil
}

// Namespace is For in the runtime's words.
func (r *Ranges) Namespace(uid types.UID) (*runtimeapi.UserNamespace, error) {
	own, err := r.For(uid)
	if err != nil {
		return nil, err
	}
	all := func() []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{HostId: own.First, ContainerId: 0, Length: own.Length}}
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: all(), Gids: all()}, nil
}
