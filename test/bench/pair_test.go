package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mote-edge/mote/test/lab"
)

// BenchmarkPair compares builds with each other, for work on this code: BENCH_PAIR names directories of programs, each of
// which gets a lab. They take turns, so that a machine which is busy is so for all of them, and the processor time of 60
// pods at once is summed by program, which a busy machine falsifies less than the time on the clock.
func BenchmarkPair(b *testing.B) {
	dirs := strings.Fields(os.Getenv("BENCH_PAIR"))
	if len(dirs) == 0 {
		b.Skip("BENCH_PAIR names no directories")
	}
	for range b.N {
		pair(b, dirs)
	}
}

// build is one of those compared.
type build struct {
	bed
	dir   string
	cpu   map[string]time.Duration // by program, of all rounds
	took  []time.Duration
	execs []time.Duration
}

func pair(b *testing.B, dirs []string) {
	const rounds = 5
	var builds []*build
	for i, dir := range dirs {
		t := up(b, fmt.Sprintf("10.96.%d", 10+i), lab.Config{Workers: 1, NoNode: true, Bin: dir, Name: string(rune('a' + i))})
		builds = append(builds, &build{bed: t, dir: dir, cpu: map[string]time.Duration{}})
	}
	fmt.Println("\n== builds in turn")
	for _, x := range builds {
		p := x.on(x.Nodes[1])
		one := p.oneByOne(b, "one", onePods)
		line("create → Ready one by one: "+x.dir, "p50 %s, p99 %s", ms(quantile(one, 50)), ms(quantile(one, 99)))
	}
	for range rounds {
		for _, x := range builds {
			x.execs = append(x.execs, execs(b, x.Lab, x.c, "one-0", execCount)...)
		}
	}
	for _, x := range builds {
		slices.Sort(x.execs)
		line("exec: "+x.dir, "p50 %s, p90 %s", quantile(x.execs, 50).Round(100*time.Microsecond), quantile(x.execs, 90).Round(100*time.Microsecond))
		x.on(x.Nodes[1]).remove(b)
	}
	for round := range rounds {
		for _, x := range builds {
			before := x.spent(b)
			p := x.on(x.Nodes[1])
			x.took = append(x.took, p.atOnce(b, fmt.Sprint("many", round), manyPods))
			for program, d := range x.spent(b) {
				x.cpu[program] += d - before[program]
			}
			p.remove(b)
			time.Sleep(2 * time.Second) // events and the like
		}
	}
	for _, x := range builds {
		var sum time.Duration
		for _, d := range x.cpu {
			sum += d
		}
		line(fmt.Sprintf("%d at once: %s", manyPods, x.dir), "%s of processor time a round", ms(sum/rounds))
		for program, d := range x.cpu {
			line("", "%8s %s", ms(d/rounds), program)
		}
		line("", "on the clock %v", x.took)
	}
}

// spent is the processor time of server and worker by program; that of a container is its first steps'.
func (x *build) spent(b *testing.B) map[string]time.Duration {
	out := map[string]time.Duration{}
	for _, programs := range []map[string][]int{x.Nodes[0].Programs(), x.Nodes[1].Programs(), x.Nodes[1].ProgramsIn("/")} {
		for program, pids := range programs {
			out[program] += measure(b, map[string][]int{program: pids}).cpu
		}
	}
	return out
}
