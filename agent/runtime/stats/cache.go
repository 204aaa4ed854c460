package stats

import (
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cache remembers the last processor reading of each container and pod, for rates, and disk usage, which costs a walk,
// for a while. The zero value is ready.
type Cache struct {
	mu   sync.Mutex
	cpu  map[string]cpuSample
	disk map[string]Disk
}

type cpuSample struct {
	at    int64
	usage uint64
	rate  uint64
}

// Disk is what a writable layer held at a moment.
type Disk struct {
	At            time.Time
	Bytes, Inodes uint64
}

// diskInterval is how old the reading of a large layer may be; a small one is walked again after a second.
const diskInterval = 30 * time.Second

// rateInterval is the shortest time over which a processor rate is computed.
const rateInterval = 100 * time.Millisecond

func (k *Cache) rate(id string, at int64, usage uint64) *cri.UInt64Value {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cpu == nil {
		k.cpu = map[string]cpuSample{}
	}
	last, known := k.cpu[id]
	switch {
	case !known || usage < last.usage:
		k.cpu[id] = cpuSample{at: at, usage: usage}
		return nil
	case at-last.at < int64(rateInterval):
		if last.rate == 0 {
			return nil
		}
		return &cri.UInt64Value{Value: last.rate}
	}
	rate := uint64(float64(usage-last.usage) / float64(at-last.at) * 1e9)
	k.cpu[id] = cpuSample{at: at, usage: usage, rate: rate}
	return &cri.UInt64Value{Value: rate}
}

// Forget drops what is remembered of a container or pod.
func (k *Cache) Forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.cpu, id)
	delete(k.disk, id)
}

// CPU reads a cgroup's processor usage; key names whose it is, for the rate. Nil when the group is gone.
func (k *Cache) CPU(key string, g Group) *cri.CpuUsage {
	now := time.Now().UnixNano()
	usage, found := g.cpuNanos()
	if !found {
		return nil
	}
	return &cri.CpuUsage{
		Timestamp: now, UsageCoreNanoSeconds: &cri.UInt64Value{Value: usage},
		UsageNanoCores: k.rate(key, now, usage), Psi: g.Pressure("cpu.pressure"),
	}
}

// Disk returns the last reading of a layer if it is fresh enough, and measures it otherwise.
func (k *Cache) Disk(key string, measure func() (Disk, error)) (Disk, error) {
	k.mu.Lock()
	last, known := k.disk[key]
	k.mu.Unlock()
	age := time.Since(last.At)
	if known && age <= diskInterval && (age <= time.Second || last.Inodes >= 1000) {
		return last, nil
	}
	last, err := measure()
	if err != nil {
		return last, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.disk == nil {
		k.disk = map[string]Disk{}
	}
	k.disk[key] = last
	return last, nil
}
