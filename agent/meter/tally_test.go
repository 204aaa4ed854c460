package meter

import (
	"strings"
	"testing"
	"time"
)

func TestTally(t *testing.T) {
	var none *Tally
	none.Add(CPUPins, 1)
	none.Since(Relists, time.Now())
	y := NewTally()
	y.Add(CPUPins, 2)
	y.Add(HTTPInFlight, 1, "GET", "metrics", "false")
	y.Add(HTTPInFlight, -1, "GET", "metrics", "false")
	y.Observe(DeviceAllocations, .3, "example.com/a")
	y.Observe(VolumeMounts, .2, "success", "kubernetes.io/secret")
	contains(t, y.Write, "kubelet_cpu_manager_pinning_requests_total 2", "kubelet_cpu_manager_pinning_errors_total 0", "# TYPE kubelet_http_inflight_requests gauge",
		`kubelet_http_inflight_requests{method="GET",path="metrics",long_running="false",server_type="readwrite"} 0`,
		`kubelet_device_plugin_alloc_duration_seconds_bucket{resource_name="example.com/a",le="0.5"} 1`, "kubelet_pleg_relist_duration_seconds_count 0",
		`storage_operation_duration_seconds_count{status="success",volume_plugin="kubernetes.io/secret",migrated="false",operation_name="volume_mount"} 1`)
}

// Every metric has its definition, under a name of its own.
func TestDefinitions(t *testing.T) {
	names := map[string]bool{}
	for m, d := range definitions {
		if d.name == "" || d.help == "" || names[d.name] || !strings.HasPrefix(d.name, "kubelet_") && !strings.HasPrefix(d.name, "storage_") {
			t.Errorf("%d: %+v", m, d)
		}
		names[d.name] = true
	}
}

func TestImageSize(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "N/A", 1: "0-10MB", 10 << 20: "0-10MB", 10<<20 + 1: "10MB-100MB", 2 << 30: "1GB-5GB", 1 << 40: "GT100GB"} {
		if got := ImageSize(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
