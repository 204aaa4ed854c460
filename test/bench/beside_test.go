package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mote-edge/mote/test/lab"
	"github.com/mote-edge/mote/test/peers/upstream"
)

const (
	quietPods, fullPods = 30, 110 // for idle processor time, and for memory
	execCount           = 30
	burstRounds         = 3
	idleWithPods        = 45 * time.Second
)

// side is one of the two nodes: Mote's, or upstream's.
type side struct {
	pods
	name     string
	programs func() map[string][]int // without the pods' own processes
}

// BenchmarkBeside measures Mote's agent, runtime and holder beside the upstream kubelet, containerd and runc: two workers
// of one cluster, the same API server, image, pods and CNI plugin. The pods of one are gone before the other's start.
func BenchmarkBeside(b *testing.B) {
	peers := os.Getenv("PEERS")
	if peers == "" {
		peers = "/var/tmp/mote-peers"
	}
	pause := filepath.Join(peers, "images", "pause.tar")
	if err := upstream.Missing(filepath.Join(peers, "bin"), pause); err != nil {
		fmt.Printf("\n== NOT MEASURED beside upstream's node: its programs are missing: %v\n", err)
		b.Skip("no upstream programs")
	}
	for range b.N {
		beside(b, filepath.Join(peers, "bin"), pause)
	}
}

func beside(b *testing.B, peers, pause string) {
	t := up(b, "10.96.2", lab.Config{Workers: 1, Bare: 1, NoNode: true})
	cfg := upstream.Config{Lab: t.Lab, Node: t.Nodes[2], Peers: peers, Pause: pause, Plugins: t.cfg.Bin, Images: t.cfg.Images, Network: "10.42.0.0/16"}
	other, err := upstream.Start(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	mote := side{t.on(t.Nodes[1]), "Mote", t.Nodes[1].Programs}
	theirs := side{t.on(t.Nodes[2]), "upstream", other.Programs}
	both := []side{mote, theirs}
	fmt.Println("\n== side by side: Mote's agent, runtime and holder | upstream's kubelet 1.37, containerd 2.4, runc 1.5: same API server, image, pod, CNI plugin")
	times := func(what string, bar float64, of func(side) time.Duration) {
		b.Helper()
		m, u := of(mote), of(theirs)
		line(what, "%8s | %8s | %5.1f times (bar %g)", ms(m), ms(u), float64(u)/float64(m), bar)
	}
	time.Sleep(settle)
	empty := look(b, both)
	for i, s := range both {
		line("RSS idle, no pods: "+s.name, "%s", empty[i])
	}
	lengths := map[string][]time.Duration{}
	for _, s := range both {
		s.oneByOne(b, s.node+"-warm", 1) // each has run its code once
		lengths[s.node] = s.pods.oneByOne(b, s.node+"-one", onePods)
	}
	for _, q := range []int{50, 99} {
		times(fmt.Sprintf("create → Ready, %d pods one by one: p%d", onePods, q), 6, func(s side) time.Duration { return quantile(lengths[s.node], q) })
	}
	lengths = map[string][]time.Duration{}
	for _, s := range both {
		lengths[s.node] = execs(b, t.Lab, t.c, s.node+"-one-0", execCount)
	}
	times(fmt.Sprintf("exec through the API server, %d: p50", execCount), 0, func(s side) time.Duration { return quantile(lengths[s.node], 50) })
	mote.remove(b)
	bursts := map[string][]time.Duration{}
	for round := range burstRounds { // in turn: a busy machine is so for both
		for _, s := range both {
			bursts[s.node] = append(bursts[s.node], s.atOnce(b, fmt.Sprintf("%s-many%d", s.node, round), manyPods))
			s.remove(b)
			time.Sleep(settle) // the other mustn't pay for what this one still tidies up
		}
	}
	times(fmt.Sprintf("create → Ready, %d pods at once: median of %d", manyPods, burstRounds), 6, func(s side) time.Duration {
		line("", "%s: %v", s.name, bursts[s.node])
		return quantile(slices.Sorted(slices.Values(bursts[s.node])), 50)
	})

	for _, s := range both {
		s.atOnce(b, s.node+"-quiet", quietPods)
	}
	time.Sleep(2 * settle)
	before := look(b, both)
	time.Sleep(idleWithPods)
	after := look(b, both)
	line(fmt.Sprintf("CPU with %d pods without probes (of a core; bar 0.3 %%)", quietPods), "%6.2f %% | %6.2f %%", percent(before[0], after[0]), percent(before[1], after[1]))
	for _, s := range both {
		free := available(b)
		s.atOnce(b, s.node+"-full", fullPods-quietPods)
		time.Sleep(2 * settle)
		u := look(b, []side{s})[0]
		line(fmt.Sprintf("RSS with %d pods: %s", fullPods, s.name), "%s", u)
		line("", "from none %.2f MB a pod (bar 0.5, goal 0.3); machine's memory, all counted, %.2f MB for each of %d more",
			(u.total()-empty[which(both, s)].total())/fullPods, (free-available(b))/(fullPods-quietPods), fullPods-quietPods)
	}
	mote.remove(b)
}

func which(all []side, s side) int {
	for i := range all {
		if all[i].name == s.name {
			return i
		}
	}
	return -1
}

func look(b *testing.B, sides []side) (out []usage) {
	b.Helper()
	for _, s := range sides {
		out = append(out, measure(b, s.programs()))
	}
	return out
}
