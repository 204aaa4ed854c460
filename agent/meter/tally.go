package meter

import (
	"sync/atomic"
	"time"
)

// Metric is something that the node's parts count or time where it happens.
type Metric int

// The metrics of a Tally; their names, labels and bounds are in the table below.
const (
	CPUPins Metric = iota
	CPUPinsFailed
	MemoryPins
	MemoryPinsFailed
	Alignments
	AlignmentsFailed
	AlignmentMillis
	DeviceRegistrations // resource
	DeviceAllocations   // resource
	Relists
	RelistIntervals
	DiscardedEvents
	EventStreams
	EventStreamsFailed
	EventStreamLatency
	PodSyncs        // operation
	CgroupWrites    // operation
	ImagePulls      // size
	VolumeMounts    // status, plugin
	HTTPRequests    // method, path, long-running
	HTTPDurations   // method, path, long-running
	HTTPInFlight    // method, path, long-running
	ClientRenewals  // that failed
	ServingRenewals // that failed
	metricCount
)

type definition struct {
	name, help string
	labels     []string
	fixed      []string  // names and values of further labels
	bounds     []float64 // of a histogram; nil for a counter
	gauge      bool
}

var (
	pulls      = []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	mounts     = []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}
	alignments = []float64{.05, .1, .2, .4, .8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2}
	httpLabels = []string{"method", "path", "long_running"}
	httpFixed  = []string{"server_type", "readwrite"}
)

var definitions = [metricCount]definition{
	CPUPins:             {name: "kubelet_cpu_manager_pinning_requests_total", help: "The number of cpu core allocations which required pinning."},
	CPUPinsFailed:       {name: "kubelet_cpu_manager_pinning_errors_total", help: "The number of cpu core allocations which required pinning failed."},
	MemoryPins:          {name: "kubelet_memory_manager_pinning_requests_total", help: "The number of memory pages allocations which required pinning."},
	MemoryPinsFailed:    {name: "kubelet_memory_manager_pinning_errors_total", help: "The number of memory pages allocations which required pinning that failed."},
	Alignments:          {name: "kubelet_topology_manager_admission_requests_total", help: "The number of admission requests where resources have to be aligned."},
	AlignmentsFailed:    {name: "kubelet_topology_manager_admission_errors_total", help: "The number of admission request failures where resources could not be aligned."},
	AlignmentMillis:     {name: "kubelet_topology_manager_admission_duration_ms", help: "Duration in milliseconds to serve a pod admission request.", bounds: alignments},
	DeviceRegistrations: {name: "kubelet_device_plugin_registration_total", help: "Cumulative number of device plugin registrations. Broken down by resource name.", labels: []string{"resource_name"}},
	DeviceAllocations:   {name: "kubelet_device_plugin_alloc_duration_seconds", help: "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.", labels: []string{"resource_name"}, bounds: Probes},
	Relists:             {name: "kubelet_pleg_relist_duration_seconds", help: "Duration in seconds for relisting pods in PLEG.", bounds: Probes},
	RelistIntervals:     {name: "kubelet_pleg_relist_interval_seconds", help: "Interval in seconds between relisting in PLEG.", bounds: Probes},
	DiscardedEvents:     {name: "kubelet_pleg_discard_events", help: "The number of discard events in PLEG."},
	EventStreams:        {name: "kubelet_evented_pleg_connection_success_count", help: "The number of times a streaming client was obtained to receive CRI Events."},
	EventStreamsFailed:  {name: "kubelet_evented_pleg_connection_error_count", help: "The number of errors encountered during the establishment of streaming connection with the CRI runtime."},
	EventStreamLatency:  {name: "kubelet_evented_pleg_connection_latency_seconds", help: "The latency of streaming connection with the CRI runtime, measured in seconds.", bounds: Probes},
	PodSyncs:            {name: "kubelet_pod_worker_duration_seconds", help: "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", labels: []string{"operation_type"}, bounds: Probes},
	CgroupWrites:        {name: "kubelet_cgroup_manager_duration_seconds", help: "Duration in seconds for cgroup manager operations. Broken down by method.", labels: []string{"operation_type"}, bounds: Probes},
	ImagePulls:          {name: "kubelet_image_pull_duration_seconds", help: "Duration in seconds to pull an image.", labels: []string{"image_size_in_bytes"}, bounds: pulls},
	VolumeMounts:        {name: "storage_operation_duration_seconds", help: "Storage operation duration", labels: []string{"status", "volume_plugin"}, fixed: []string{"migrated", "false", "operation_name", "volume_mount"}, bounds: mounts},
	HTTPRequests:        {name: "kubelet_http_requests_total", help: "Number of the http requests received since the server started", labels: httpLabels, fixed: httpFixed},
	HTTPDurations:       {name: "kubelet_http_requests_duration_seconds", help: "Duration in seconds to serve http requests", labels: httpLabels, fixed: httpFixed, bounds: Probes},
	HTTPInFlight:        {name: "kubelet_http_inflight_requests", help: "Number of the inflight http requests", labels: httpLabels, fixed: httpFixed, gauge: true},
	ClientRenewals:      {name: "kubelet_certificate_manager_client_expiration_renew_errors", help: "Counter of certificate renewal errors."},
	ServingRenewals:     {name: "kubelet_server_expiration_renew_errors", help: "Counter of certificate renewal errors."},
}

// Tally counts and times what the node's parts do. A nil one counts nothing. It is safe for concurrent use.
type Tally struct {
	counts [metricCount]family[*atomic.Int64]
	times  [metricCount]family[*Histogram]
}

// NewTally returns one that has seen nothing.
func NewTally() *Tally {
	t := &Tally{}
	for m, d := range definitions {
		t.counts[m].make = func() *atomic.Int64 { return new(atomic.Int64) }
		t.times[m].make = func() *Histogram { return NewHistogram(d.bounds) }
		switch { // what has no labels is there from the beginning, as zero
		case len(d.labels) > 0:
		case d.bounds == nil:
			t.counts[m].of()
		default:
			t.times[m].of()
		}
	}
	return t
}

// Add counts n more; labels are the values of the metric's labels.
func (t *Tally) Add(m Metric, n int64, labels ...string) {
	if t != nil {
		t.counts[m].of(labels...).Add(n)
	}
}

// Observe takes a value into a histogram.
func (t *Tally) Observe(m Metric, v float64, labels ...string) {
	if t != nil {
		t.times[m].of(labels...).Observe(v)
	}
}

// Since takes the seconds since then into a histogram.
func (t *Tally) Since(m Metric, then time.Time, labels ...string) {
	t.Observe(m, time.Since(then).Seconds(), labels...)
}

// Write writes what was counted.
func (t *Tally) Write(x *Text) {
	for m, d := range definitions {
		all := func(values []string) []string {
			out := make([]string, 0, 2*len(d.labels)+len(d.fixed))
			for i, l := range d.labels {
				out = append(out, l, values[i])
			}
			return append(out, d.fixed...)
		}
		kind := "counter"
		if d.gauge {
			kind = "gauge"
		}
		t.counts[m].each(func(l []string, n *atomic.Int64) { x.Value(d.name, kind, d.help, float64(n.Load()), all(l)...) })
		t.times[m].each(func(l []string, h *Histogram) { x.Histogram(d.name, d.help, h, all(l)...) })
	}
}

// ImageSize is the label of an image's size, as upstream draws the lines.
func ImageSize(bytes uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	label := "N/A"
	for _, step := range []struct {
		above uint64
		label string
	}{
		{0, "0-10MB"},
		{10 * mb, "10MB-100MB"},
		{100 * mb, "100MB-500MB"},
		{500 * mb, "500MB-1GB"},
		{gb, "1GB-5GB"},
		{5 * gb, "5GB-10GB"},
		{10 * gb, "10GB-20GB"},
		{20 * gb, "20GB-30GB"},
		{30 * gb, "30GB-40GB"},
		{40 * gb, "40GB-60GB"},
		{60 * gb, "60GB-100GB"},
		{100 * gb, "GT100GB"},
	} {
		if bytes > step.above {
			label = step.label
		}
	}
	return label
}
