// Package quietqueues keeps the work queues of Kubernetes' libraries from waking an idle server. Each queue that has a name
// starts a ticker of half a second which sets two of its metrics, as soon as a provider of metrics has been registered; the
// eighteen queues of the API extension and aggregation servers were half of all that woke an idle control plane. Queues
// take their provider when they are made, the first one registered stays, and a library registers one while it is
// initialised: so this package has to come before that and takes the registration's only turn (ADR 0341).
//
// Reads:  nothing.
// Writes: a variable of k8s.io/client-go/util/workqueue.
package quietqueues

import (
	"sync"
	_ "unsafe" // for go:linkname

	_ "k8s.io/client-go/util/workqueue" // whose variable it is
)

// registration is done once, by workqueue.SetProvider.
//
//go:linkname registration k8s.io/client-go/util/workqueue.setGlobalMetricsProviderOnce
var registration sync.Once

// Go initialises packages by their import paths as soon as what they import is: this one before k8s.io/component-base.
func init() { registration.Do(func() {}) }
