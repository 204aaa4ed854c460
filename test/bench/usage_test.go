package bench

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// usage is what a node's programs take.
type usage struct {
	rss  map[string]float64 // MB by program
	pss  float64            // MB: a page that several processes share counts once
	n    map[string]int     // processes by program
	cpu  time.Duration
	when time.Time
}

func (u usage) total() (mb float64) {
	for _, v := range u.rss {
		mb += v
	}
	return mb
}

func (u usage) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(u.rss)) {
		times := ""
		if u.n[name] > 1 {
			times = fmt.Sprintf("%d × ", u.n[name])
		}
		parts = append(parts, fmt.Sprintf("%s%s %.1f", times, name, u.rss[name]))
	}
	return fmt.Sprintf("%.1f MB (%s; shared pages counted once: %.1f)", u.total(), strings.Join(parts, ", "), u.pss)
}

// measure looks at processes, given by program.
func measure(b *testing.B, programs map[string][]int) usage {
	b.Helper()
	u := usage{rss: map[string]float64{}, n: map[string]int{}, when: time.Now()}
	for program, pids := range programs {
		for _, pid := range pids {
			rss, err1 := kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
			pss, err2 := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
			stat, err3 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err1 != nil || err2 != nil || err3 != nil {
				continue // it has ended: a CNI call, say
			}
			u.rss[program] += rss / 1024
			u.pss += pss / 1024
			u.n[program]++
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			for _, ticks := range f[11:15] { // utime, stime, and those of children that have ended (proc(5))
				n, err := strconv.Atoi(ticks)
				if err != nil {
					b.Fatal(err)
				}
				u.cpu += time.Duration(n) * time.Second / 100
			}
		}
	}
	return u
}

// kilobytes reads a line of a file in /proc.
func kilobytes(path, name string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// available is the memory that the machine could still give, in MB.
func available(b *testing.B) float64 {
	b.Helper()
	kb, err := kilobytes("/proc/meminfo", "MemAvailable:")
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}

// others is the share of the whole machine's processors that was in use before anything was started here, over a second.
// A number measured on a busy machine says little.
func others(b *testing.B) float64 {
	b.Helper()
	look := func() (busy, all float64) {
		text, err := os.ReadFile("/proc/stat")
		if err != nil {
			b.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		for i, f := range strings.Fields(first)[1:9] { // user nice system idle iowait irq softirq steal (proc(5))
			n, err := strconv.ParseFloat(f, 64)
			if err != nil {
				b.Fatal(err)
			}
			all += n
			if i != 3 && i != 4 {
				busy += n
			}
		}
		return busy, all
	}
	busy, all := look()
	time.Sleep(time.Second)
	busy2, all2 := look()
	return 100 * (busy2 - busy) / (all2 - all)
}

// percent is the share of a core that was used between two looks.
func percent(a, z usage) float64 {
	return 100 * float64(z.cpu-a.cpu) / float64(z.when.Sub(a.when))
}
