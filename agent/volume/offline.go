package volume

import (
	"time"

	"github.com/mote-edge/mote/agent/objects"
)

// A node goes on while the API server is out of reach. A volume that an earlier run of the agent has filled keeps its
// content. A pod that starts anew (after a reboot) waits a while and is then given its volumes without what serves to
// reach the API server only: its token and the cluster's CA, which follow as soon as there is an API server to use them
// with. Everything else it waits for.
const (
	offlineAfter = 20 * time.Second
	retryAfter   = 30 * time.Second
	rootCA       = "kube-root-ca.crt" // the ConfigMap of the cluster's CA, in every namespace
)

var outOfReach = objects.OutOfReach

// later asks for a pod's volumes to be made again soon, whatever its tokens say.
func (v *Volumes) later(p *podVolumes) {
	if at := v.now().Add(retryAfter); p.refresh.IsZero() || at.Before(p.refresh) {
		p.refresh = at
	}
}

// patience counts how long a pod has waited for an API server that is out of reach.
func (v *Volumes) patience(p *podVolumes, err error) (offline bool) {
	if !outOfReach(err) {
		p.waiting = time.Time{}
		return false
	}
	if p.waiting.IsZero() {
		p.waiting = v.now()
	}
	return v.now().Sub(p.waiting) >= offlineAfter
}
