package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/mote-edge/mote/test/lab"
)

// BenchmarkCluster measures a whole cluster on one machine, and an idle worker.
func BenchmarkCluster(b *testing.B) {
	for range b.N {
		cluster(b)
	}
}

func cluster(b *testing.B) {
	t := up(b, "10.96.1", lab.Config{Workers: 1})
	fmt.Println("\n== a cluster of one server, with its node, and one worker")
	line("empty disks → server and worker Ready (network, token, join)", "%s", ms(t.took))
	node := t.on(t.Nodes[0])
	look := func(i int) usage { b.Helper(); return measure(b, t.Nodes[i].Programs()) }
	time.Sleep(settle) // what is measured is rest
	server, worker := look(0), look(1)
	line("RSS idle: whole single-node cluster", "%s", server)
	line("RSS idle: worker", "%s", worker)
	time.Sleep(idle)
	line("CPU idle: cluster, worker (of a core)", "%.2f %%, %.2f %%", percent(server, look(0)), percent(worker, look(1)))

	one := node.oneByOne(b, "one", onePods)
	line(fmt.Sprintf("create → Ready, %d pods one by one: p50, p99", onePods), "%s, %s", ms(quantile(one, 50)), ms(quantile(one, 99)))
	line(fmt.Sprintf("create → Ready, %d pods at once", manyPods), "%s", ms(node.atOnce(b, "many", manyPods)))
	time.Sleep(settle)
	after := look(0)
	line(fmt.Sprintf("RSS of the cluster with %d pods", onePods+manyPods), "%s; per pod %.2f MB", after, (after.total()-server.total())/(onePods+manyPods))
	b.ReportMetric(server.total(), "cluster-MB")
	b.ReportMetric(worker.total(), "worker-MB")
	b.ReportMetric(float64(quantile(one, 50).Milliseconds()), "p50-ms")
}
