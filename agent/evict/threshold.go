package evict

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is a resource that can run short, by the name that KubeletConfiguration has for what is left of it.
type Signal string

// The signals. containerfs is where writable layers are: on Mote's runtime always the image file system's.
const (
	MemoryAvailable      Signal = "memory.available"
	NodeFsAvailable      Signal = "nodefs.available"
	NodeFsInodesFree     Signal = "nodefs.inodesFree"
	ImageFsAvailable     Signal = "imagefs.available"
	ImageFsInodesFree    Signal = "imagefs.inodesFree"
	PIDAvailable         Signal = "pid.available"
	AllocatableMemory    Signal = "allocatableMemory.available"
	containerFsAvailable Signal = "containerfs.available"
	containerFsInodes    Signal = "containerfs.inodesFree"
)

// order is how signals are dealt with: memory first, for a node without any can't do the rest.
var order = []Signal{MemoryAvailable, AllocatableMemory, NodeFsAvailable, ImageFsAvailable, NodeFsInodesFree, ImageFsInodesFree, PIDAvailable}

// Resource is what is short, in the words of eviction messages.
func (s Signal) Resource() corev1.ResourceName {
	switch s {
	case MemoryAvailable, AllocatableMemory:
		return corev1.ResourceMemory
	case NodeFsInodesFree, ImageFsInodesFree:
		return "inodes"
	case PIDAvailable:
		return "pids"
	}
	return corev1.ResourceEphemeralStorage
}

// Condition is the condition that the node has while a signal is short.
func (s Signal) Condition() corev1.NodeConditionType {
	switch s.Resource() {
	case corev1.ResourceMemory:
		return corev1.NodeMemoryPressure
	case "pids":
		return corev1.NodePIDPressure
	}
	return corev1.NodeDiskPressure
}

// Amount is bytes, inodes or processes: absolute, or a share of what there is.
type Amount struct {
	Absolute int64
	Share    float64 // of the capacity; with both, the smaller one counts
}

// Of is the amount, given the capacity.
func (a Amount) Of(capacity int64) int64 {
	part := int64(a.Share * float64(capacity))
	switch {
	case a.Share == 0:
		return a.Absolute
	case a.Absolute == 0:
		return part
	}
	return min(a.Absolute, part)
}

// Threshold is what must be left of something.
type Threshold struct {
	Signal  Signal
	Left    Amount
	Grace   time.Duration // how long less may be left before pods are ended for it; 0: a hard threshold
	Reclaim Amount        // how much more must be free before it counts as over
}

func (t Threshold) hard() bool { return t.Grace == 0 }

// Spec is the thresholds as a KubeletConfiguration has them.
type Spec struct {
	Hard, Soft, Grace, Reclaim map[string]string
	MergeDefaults              bool // add the defaults to Hard where it says nothing
}

// Defaults are upstream's hard thresholds, bounded so that neither a small board nor a large disk is kept half empty, and
// a little of the process numbers.
func Defaults() []Threshold {
	return []Threshold{
		{Signal: MemoryAvailable, Left: Amount{100 << 20, 0.1}},
		{Signal: NodeFsAvailable, Left: Amount{5 << 30, 0.1}},
		{Signal: NodeFsInodesFree, Left: Amount{Share: 0.05}},
		{Signal: ImageFsAvailable, Left: Amount{5 << 30, 0.15}},
		{Signal: ImageFsInodesFree, Left: Amount{Share: 0.05}},
		{Signal: PIDAvailable, Left: Amount{Share: 0.05}},
	}
}

// Thresholds reads a spec. Without a word about hard thresholds the defaults hold; the error has a line for each mistake.
func Thresholds(s Spec) ([]Threshold, error) {
	var errs []error
	var out []Threshold
	hard := map[Signal]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
		t, none, err := statement("evictionHard", name, s.Hard[name])
		if errs = append(errs, err); err == nil {
			hard[t.Signal] = true
			if !none {
				out = append(out, t)
			}
		}
	}
	if s.Hard == nil || s.MergeDefaults {
		for _, t := range Defaults() {
			if !hard[t.Signal] {
				out = append(out, t)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Soft)) {
		t, none, err := statement("evictionSoft", name, s.Soft[name])
		if err == nil {
			d, bad := time.ParseDuration(s.Grace[name])
			if bad != nil || d <= 0 {
				err = fmt.Errorf("evictionSoftGracePeriod: %s: %q is not a time: a soft threshold needs one, like 1m30s", name, s.Grace[name])
			}
			t.Grace = d
		}
		if errs = append(errs, err); err == nil && !none {
			out = append(out, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Reclaim)) {
		signal, err := parseSignal("evictionMinimumReclaim", name)
		var a Amount
		if err == nil {
			a, err = amount("evictionMinimumReclaim", name, s.Reclaim[name])
		}
		errs = append(errs, err)
		for i := range out {
			if out[i].Signal == signal {
				out[i].Reclaim = a
			}
		}
	}
	return out, errors.Join(errs...)
}

// statement reads one threshold; none: 0% and 100% switch it off.
func statement(field, name, value string) (t Threshold, none bool, err error) {
	if t.Signal, err = parseSignal(field, name); err != nil {
		return t, false, err
	}
	if t.Left, err = amount(field, name, value); err != nil {
		return t, false, err
	}
	if t.Left.Absolute == 0 && !strings.HasSuffix(value, "%") {
		return t, false, fmt.Errorf("%s: %s: %q is not more than nothing: write 0%% to switch it off", field, name, value)
	}
	return t, t.Left == Amount{} || t.Left.Share == 1, nil
}

func parseSignal(field, name string) (Signal, error) {
	switch s := Signal(name); {
	case s == containerFsAvailable:
		return ImageFsAvailable, nil
	case s == containerFsInodes:
		return ImageFsInodesFree, nil
	case slices.Contains(order, s):
		return s, nil
	}
	return "", fmt.Errorf("%s: %q is not a signal: those are %q", field, name, order)
}

func amount(field, name, value string) (Amount, error) {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || p < 0 || p > 100 {
			return Amount{}, fmt.Errorf("%s: %s: %q is not a share between 0%% and 100%%", field, name, value)
		}
		return Amount{Share: p / 100}, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		return Amount{}, fmt.Errorf("%s: %s: %q is not an amount: write it like 500Mi or 10%%", field, name, value)
	}
	return Amount{Absolute: q.Value()}, nil
}
