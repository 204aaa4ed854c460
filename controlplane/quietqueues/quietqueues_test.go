package quietqueues_test

import (
	"bytes"
	"runtime/pprof"
	"testing"

	"k8s.io/client-go/util/workqueue"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // registers its provider, in vain

	_ "github.com/mote-edge/mote/controlplane/quietqueues"
)

func TestNamedQueuesHaveNoTicker(t *testing.T) {
	q := workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.DefaultTypedControllerRateLimiter[string](), workqueue.TypedRateLimitingQueueConfig[string]{Name: "named"})
	defer q.ShutDown()
	var goroutines bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&goroutines, 1); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(goroutines.Bytes(), []byte("updateUnfinishedWorkLoop")) {
		t.Error("a queue with a name wakes the program every half second: has client-go renamed setGlobalMetricsProviderOnce?")
	}
}
