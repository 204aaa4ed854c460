package meter

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Bounds of histograms in seconds, as upstream has them for the metrics of the same names.
var (
	// Calls are calls to the runtime and to the API server.
	Calls = []float64{.005, .0125, .03125, .078125, .1953125, .48828125, 1.220703125, 3.0517578125, 7.62939453125, 19.073486328125, 47.6837158203125, 119.20928955078125, 298.0232238769531, 745.0580596923828}
	// Starts are starts of pods.
	Starts = []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	// Probes are probes of containers.
	Probes = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
)

// Histogram counts values by size. It is safe for concurrent use.
type Histogram struct {
	bounds []float64
	counts []atomic.Uint64
	sum    atomic.Uint64 // the bits of a float64
}

// NewHistogram returns one with these upper bounds.
func NewHistogram(bounds []float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Observe counts a value.
func (h *Histogram) Observe(v float64) {
	i, _ := slices.BinarySearch(h.bounds, v)
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

func (h *Histogram) read() ([]uint64, float64) {
	out := make([]uint64, len(h.counts))
	for i := range h.counts {
		out[i] = h.counts[i].Load()
	}
	return out, math.Float64frombits(h.sum.Load())
}

// family is values of one kind by their labels' values.
type family[T any] struct {
	make func() T

	mu  sync.Mutex
	all map[string]T
}

func (f *family[T]) of(labels ...string) T {
	key := strings.Join(labels, "\x00")
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.all[key]
	if !ok {
		if f.all == nil {
			f.all = map[string]T{}
		}
		v = f.make()
		f.all[key] = v
	}
	return v
}

// each visits the values in the order of their labels.
func (f *family[T]) each(visit func(labels []string, v T)) {
	f.mu.Lock()
	keys := make([]string, 0, len(f.all))
	for k := range f.all {
		keys = append(keys, k)
	}
	f.mu.Unlock()
	slices.Sort(keys)
	for _, k := range keys {
		f.mu.Lock()
		v := f.all[k]
		f.mu.Unlock()
		visit(strings.Split(k, "\x00"), v)
	}
}

func counters() family[*atomic.Int64] {
	return family[*atomic.Int64]{make: func() *atomic.Int64 { return new(atomic.Int64) }}
}

func histograms(bounds []float64) family[*Histogram] {
	return family[*Histogram]{make: func() *Histogram { return NewHistogram(bounds) }}
}
