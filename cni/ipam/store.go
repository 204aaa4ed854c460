// Package ipam allocates pod addresses from one IPv4 range and remembers, for each attachment of a container to the
// network, what was set up for it: the one place that DEL and GC need to look at to take everything away again.
//
// On disk, below the store's directory:
//
//	lock                          flock(2) held over each change
//	last                          the address given out last: the search goes on from there (round-robin)
//	addresses/10.42.0.5           symbolic link to the attachment that holds the address
//	attachments/<id>@<ifname>     the Record, JSON
//
// The link is made before the record, so a crash in between leaves a dangling link: a stale address that is taken
// back when it is next in turn. Nothing is synced: the directory lives on tmpfs and goes with a reboot, as the pods do.
//
// Reads:  the store's directory.
// Writes: the store's directory.
package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrExhausted is returned when every address of the range is held by a live attachment.
var ErrExhausted = errors.New("no free address")

// Record is what is known about one attachment.
type Record struct {
	ContainerID string     `json:"containerID"`
	IfName      string     `json:"ifname"`
	Netns       string     `json:"netns,omitempty"`
	Address     netip.Addr `json:"address"`
	HostIf      string     `json:"hostIf,omitempty"`
	// Ports are the host ports that were asked for; empty means that no rule was made.
	Ports []Port `json:"ports,omitempty"`
}

// Port is one host port of an attachment.
type Port struct {
	HostIP        string `json:"hostIP,omitempty"` // "" is every address of the node
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
}

// Store is the allocator of one network. Its methods lock the store against other processes.
type Store struct {
	dir    string
	subnet netip.Prefix
}

// Open returns the store in dir for the addresses of subnet, creating the directory if needed.
func Open(dir string, subnet netip.Prefix) (*Store, error) {
	s := &Store{dir: dir, subnet: subnet.Masked()}
	for _, d := range []string{s.addresses(), s.attachments()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("address store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) addresses() string   { return filepath.Join(s.dir, "addresses") }
func (s *Store) attachments() string { return filepath.Join(s.dir, "attachments") }

func (s *Store) recordPath(containerID, ifName string) string {
	return filepath.Join(s.attachments(), containerID+"@"+ifName)
}

// Lock takes the store's lock until the returned function is called. Methods below take it themselves.
func (s *Store) Lock() (func(), error) {
	return Lock(filepath.Join(s.dir, "lock"))
}

// Lock takes the flock(2) lock of the file at path, creating it, and returns the function that gives it back.
func Lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// Gateway returns the first address of the range: the bridge's own.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Allocate gives rec an address and saves it. If the attachment is already there it keeps its address and only the
// rest of the record is replaced, so a repeated ADD is harmless.
func (s *Store) Allocate(rec Record) (Record, error) {
	unlock, err := s.Lock()
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	old, ok, err := s.get(rec.ContainerID, rec.IfName)
	if err != nil {
		return Record{}, err
	}
	if ok && s.subnet.Contains(old.Address) {
		rec.Address = old.Address
		return rec, s.save(rec)
	}
	name := filepath.Base(s.recordPath(rec.ContainerID, rec.IfName))
	if rec.Address, err = s.take(name); err != nil {
		return Record{}, err
	}
	if err := s.save(rec); err != nil {
		_ = os.Remove(filepath.Join(s.addresses(), rec.Address.String()))
		return Record{}, err
	}
	return rec, nil
}

// take claims the next free address after the last one given out.
func (s *Store) take(name string) (netip.Addr, error) {
	first, last := Gateway(s.subnet).Next(), broadcast(s.subnet)
	next := first
	if b, err := os.ReadFile(filepath.Join(s.dir, "last")); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil {
			next = a.Next()
		}
	}
	if !s.subnet.Contains(next) || next.Less(first) || !next.Less(last) {
		next = first
	}
	for start := next; ; {
		got, err := s.claim(next, name)
		if err != nil {
			return netip.Addr{}, err
		}
		if got {
			// Only the order of later allocations depends on this file: failing to write it must not fail a pod.
			_ = os.WriteFile(filepath.Join(s.dir, "last"), []byte(next.String()), 0o600)
			return next, nil
		}
		if next = next.Next(); !next.Less(last) {
			next = first
		}
		if next == start {
			return netip.Addr{}, fmt.Errorf("%w in %s: delete pods on this node, or give the node a larger pod range (--cluster-cidr, --node-cidr-mask-size)", ErrExhausted, s.subnet)
		}
	}
}

// claim links addr to the attachment called name. An address whose attachment is gone is taken over.
func (s *Store) claim(addr netip.Addr, name string) (bool, error) {
	link := filepath.Join(s.addresses(), addr.String())
	target := filepath.Join("..", "attachments", name)
	err := os.Symlink(target, link)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return false, fmt.Errorf("claim %s: %w", addr, err)
	}
	if _, err := os.Stat(link); !errors.Is(err, os.ErrNotExist) {
		return false, nil // held
	}
	if err := os.Remove(link); err != nil {
		return false, fmt.Errorf("take back %s: %w", addr, err)
	}
	if err := os.Symlink(target, link); err != nil {
		return false, fmt.Errorf("claim %s: %w", addr, err)
	}
	return true, nil
}

// Get returns the record of an attachment, and whether there is one.
func (s *Store) Get(containerID, ifName string) (Record, bool, error) {
	unlock, err := s.Lock()
	if err != nil {
		return Record{}, false, err
	}
	defer unlock()
	return s.get(containerID, ifName)
}

// Release forgets an attachment and frees its address. One that is not there is not an error.
func (s *Store) Release(containerID, ifName string) error {
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	path := s.recordPath(containerID, ifName)
	rec, ok, err := s.get(containerID, ifName)
	if err != nil && !errors.Is(err, errCorrupt) {
		return err
	}
	if ok && rec.Address.IsValid() {
		link := filepath.Join(s.addresses(), rec.Address.String())
		if target, err := os.Readlink(link); err == nil && filepath.Base(target) == filepath.Base(path) {
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("free %s: %w", rec.Address, err)
			}
		}
	}
	// A corrupt record's address link dangles from here on, and is taken back in its turn.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget attachment: %w", err)
	}
	return nil
}

// List returns every attachment. A record that cannot be read comes with its container and interface alone.
func (s *Store) List() ([]Record, error) {
	unlock, err := s.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(s.attachments())
	if err != nil {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	records := make([]Record, 0, len(entries))
	for _, e := range entries {
		id, ifName, ok := strings.Cut(e.Name(), "@")
		if !ok || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		rec, ok, err := s.get(id, ifName)
		if err != nil || !ok {
			rec = Record{ContainerID: id, IfName: ifName}
		}
		records = append(records, rec)
	}
	return records, nil
}

var errCorrupt = errors.New("attachment record is not valid JSON")

func (s *Store) get(containerID, ifName string) (Record, bool, error) {
	path := s.recordPath(containerID, ifName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, err
	}
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return Record{}, false, fmt.Errorf("%w: %s: %w: delete the pod, or remove the file", errCorrupt, path, err)
	}
	return rec, true, nil
}

// save replaces the record in one step: a reader sees the old or the new one.
func (s *Store) save(rec Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	path := s.recordPath(rec.ContainerID, rec.IfName)
	if err = os.WriteFile(path+".tmp", b, 0o600); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp")
		return fmt.Errorf("save attachment: %w", err)
	}
	return nil
}

// Tidy frees the addresses and removes the files that a crash in the middle of a change has left to no attachment.
func (s *Store) Tidy() error {
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	half, _ := filepath.Glob(filepath.Join(s.attachments(), "*.tmp"))
	links, _ := filepath.Glob(filepath.Join(s.addresses(), "*"))
	for _, link := range links {
		if _, err := os.Stat(link); errors.Is(err, os.ErrNotExist) {
			half = append(half, link)
		}
	}
	for _, path := range half {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tidy the address store: %w", err)
		}
	}
	return nil
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	for i := range b {
		b[i] |= byte(host >> (8 * (3 - i)))
	}
	return netip.AddrFrom4(b)
}
