package node

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// facts are what a machine is, as far as they can't change while it runs.
type facts struct {
	cpus                  int
	memory, disk, swap    int64           // bytes
	hugePages             map[int64]int64 // bytes by page size
	machineID, systemUUID string
	bootID, kernel, os    string
}

func readFacts(dataDir string) (facts, error) {
	f := facts{cpus: runtime.NumCPU(), os: osName(readTrimmed("/etc/os-release", "/usr/lib/os-release"))}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return f, fmt.Errorf("read the machine's memory: %w", err)
	}
	f.memory, f.swap = meminfo(string(info), "MemTotal"), meminfo(string(info), "SwapTotal")
	if f.memory == 0 {
		return f, fmt.Errorf("/proc/meminfo names no MemTotal: is /proc mounted?")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dataDir, &st); err != nil {
		return f, fmt.Errorf("size of the file system of %s: %w", dataDir, err)
	}
	f.disk = int64(st.Blocks) * int64(st.Bsize)
	f.machineID = readTrimmed("/etc/machine-id", "/var/lib/dbus/machine-id")
	if f.systemUUID = readTrimmed("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/etc/machine-id"); f.systemUUID == "" {
		f.systemUUID = f.machineID
	}
	f.bootID = readTrimmed("/proc/sys/kernel/random/boot_id")
	f.kernel = readTrimmed("/proc/sys/kernel/osrelease")
	f.hugePages = hugePages("/sys/kernel/mm/hugepages")
	return f, nil
}

// readTrimmed returns the first file that has something in it.
func readTrimmed(paths ...string) string {
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil {
			if s := strings.Trim(string(b), " \n\x00"); s != "" {
				return s
			}
		}
	}
	return ""
}

// meminfo returns a value of /proc/meminfo in bytes.
func meminfo(text, key string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				kb, _ := strconv.ParseInt(fields[0], 10, 64)
				return kb << 10
			}
		}
	}
	return 0
}

func osName(release string) string {
	for line := range strings.Lines(release) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return "Linux"
}

// hugePages reads how many pages of each size the machine has set aside.
func hugePages(dir string) map[int64]int64 {
	out := map[int64]int64{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out // a kernel without huge pages
	}
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, _ := strconv.ParseInt(readTrimmed(filepath.Join(dir, e.Name(), "nr_hugepages")), 10, 64)
		out[kb<<10] = count * kb << 10
	}
	return out
}

// capacity is what the machine has, in the API's words.
func (f facts) capacity(maxPods int) corev1.ResourceList {
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(int64(f.cpus)*1000, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for size, bytes := range f.hugePages {
		name := corev1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String()
		list[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// allocatable is the capacity less what is reserved; huge pages aren't ordinary memory.
func allocatable(capacity, reserved corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range capacity {
		v := q.DeepCopy()
		if r, ok := reserved[name]; ok {
			v.Sub(r)
		}
		if v.Sign() < 0 {
			v.Set(0)
		}
		out[name] = v
	}
	memory := out[corev1.ResourceMemory]
	for name, q := range capacity {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			memory.Sub(q)
		}
	}
	if memory.Sign() < 0 {
		memory.Set(0)
	}
	out[corev1.ResourceMemory] = memory
	return out
}
