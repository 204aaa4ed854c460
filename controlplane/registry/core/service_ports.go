package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var (
	errPortTaken = errors.New("provided port is already allocated")
	errRangeFull = errors.New("range is full")
)

// portRanges stores the bitmap of node ports in use. It isn't served.
var portRanges = resource.Descriptor[*corev1.RangeAllocation]{
	GV: corev1.SchemeGroupVersion, Plural: "servicenodeportallocations", Singular: "servicenodeportallocation", Cluster: true,
	New:     func() *corev1.RangeAllocation { return &corev1.RangeAllocation{} },
	NewList: func() runtime.Object { return &corev1.RangeAllocation{} },
}

// portAllocator gives out node ports. The bitmap is one object in etcd, changed
// by compare and swap, so several API servers can share it.
type portAllocator struct {
	store *genericregistry.Store
	ports utilnet.PortRange
}

// claim asks for ports: wanted ones by number, and any others.
type claim struct {
	wanted []int
	any    int
}

// portError says which wanted port could not be had.
type portError struct {
	port int
	err  error
}

func (e *portError) Error() string { return e.err.Error() }
func (e *portError) Unwrap() error { return e.err }

// take marks the claimed ports as used, all or none, and returns the chosen ones.
func (a *portAllocator) take(ctx context.Context, c claim, dryRun bool) (chosen []int, err error) {
	if len(c.wanted) == 0 && c.any == 0 {
		return nil, nil
	}
	err = a.change(ctx, dryRun, func(b bitmap) error {
		var err error
		chosen, err = b.claim(a.ports, c, rand.IntN)
		return err
	})
	return chosen, err
}

// release marks ports as free.
func (a *portAllocator) release(ctx context.Context, ports []int) error {
	if len(ports) == 0 {
		return nil
	}
	return a.change(ctx, false, func(b bitmap) error {
		for _, p := range ports {
			b.set(p-a.ports.Base, false)
		}
		return nil
	})
}

// reset makes used the whole truth: what a crash left marked is free again.
func (a *portAllocator) reset(ctx context.Context, used []int) error {
	return a.change(ctx, false, func(b bitmap) error {
		clear(b)
		for _, p := range used {
			b.set(p-a.ports.Base, true)
		}
		return nil
	})
}

func (a *portAllocator) change(ctx context.Context, dryRun bool, f func(bitmap) error) error {
	key, err := a.store.KeyFunc(genericapirequest.WithNamespace(ctx, ""), "node-ports")
	if err != nil {
		return err
	}
	return a.store.Storage.GuaranteedUpdate(ctx, key, &corev1.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			r := existing.(*corev1.RangeAllocation).DeepCopy()
			r.Name, r.Range = "node-ports", a.ports.String()
			if r.CreationTimestamp.IsZero() {
				r.CreationTimestamp = metav1.Now()
			}
			b := make(bitmap, (a.ports.Size+7)/8)
			if existing.(*corev1.RangeAllocation).Range == r.Range {
				copy(b, r.Data)
			}
			if err := f(b); err != nil {
				return nil, err
			}
			r.Data = b
			return r, nil
		}), dryRun, nil)
}

// bitmap has a bit for each port of the range.
type bitmap []byte

func (b bitmap) has(i int) bool { return b[i/8]&(1<<(i%8)) != 0 }

func (b bitmap) set(i int, used bool) {
	switch {
	case i < 0 || i >= len(b)*8: // a port of another range, from before a change of configuration
	case used:
		b[i/8] |= 1 << (i % 8)
	default:
		b[i/8] &^= 1 << (i % 8)
	}
}

// claim marks what is asked for. Any port is taken at random from the upper
// part of the range first: the lower is where people choose by hand.
func (b bitmap) claim(r utilnet.PortRange, c claim, random func(int) int) ([]int, error) {
	var chosen []int
	for _, p := range c.wanted {
		if !r.Contains(p) {
			return nil, &portError{p, fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", r.String())}
		}
		if b.has(p - r.Base) {
			return nil, &portError{p, errPortTaken}
		}
		b.set(p-r.Base, true)
	}
	reserved := min(max(16, r.Size/32), 128)
	if r.Size <= 16 {
		reserved = 0
	}
	for range c.any {
		i, ok := b.free(reserved, r.Size, random)
		if !ok {
			i, ok = b.free(0, reserved, random)
		}
		if !ok {
			return nil, errRangeFull
		}
		b.set(i, true)
		chosen = append(chosen, r.Base+i)
	}
	return chosen, nil
}

// free finds a free bit in [from, to), starting anywhere.
func (b bitmap) free(from, to int, random func(int) int) (int, bool) {
	n := to - from
	if n <= 0 {
		return 0, false
	}
	start := random(n)
	for k := range n {
		if i := from + (start+k)%n; !b.has(i) {
			return i, true
		}
	}
	return 0, false
}

// portFailure is the API's answer to a claim that failed.
func portFailure(s *corev1.Service, err error) error {
	var pe *portError
	if !errors.As(err, &pe) {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	return invalidPort(s, pe)
}
