package controllers

import (
	"fmt"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/controllers/cronjob"
	"github.com/mote-edge/mote/controlplane/controllers/daemonset"
	"github.com/mote-edge/mote/controlplane/controllers/deployment"
	"github.com/mote-edge/mote/controlplane/controllers/endpoints"
	"github.com/mote-edge/mote/controlplane/controllers/endpointslice"
	"github.com/mote-edge/mote/controlplane/controllers/endpointslicemirroring"
	"github.com/mote-edge/mote/controlplane/controllers/job"
	"github.com/mote-edge/mote/controlplane/controllers/replicaset"
	"github.com/mote-edge/mote/controlplane/controllers/statefulset"
)

// workloads lists the controllers of workloads and Services.
func workloads(cfg Config) ([]entry, error) {
	var out []entry
	for _, w := range []struct {
		name, source string // source is the component that its events name
		start        func(Config, record.EventRecorder) (controller, error)
	}{
		{"replicaset", "replicaset-controller", made(replicaset.New)},
		{"replicationcontroller", "replication-controller", made(replicaset.NewReplication)},
		{"deployment", "deployment-controller", made(deployment.New)},
		{"endpointslice", "endpoint-slice-controller", made(endpointslice.New)},
		{"endpoints", "endpoint-controller", made(endpoints.New)},
		{"endpointslicemirroring", "endpoint-slice-mirroring-controller", made(endpointslicemirroring.New)},
		{"daemonset", "daemonset-controller", made(daemonset.New)},
		{"job", "job-controller", made(job.New)},
		{"cronjob", "cronjob-controller", made(cronjob.New)},
		{"statefulset", "statefulset-controller", made(statefulset.New)},
	} {
		c, err := w.start(cfg, cfg.Recorder(w.source))
		if err != nil {
			return nil, fmt.Errorf("controller %s: %w", w.name, err)
		}
		out = append(out, entry{w.name, c})
	}
	return out, nil
}

// made gives the constructors of the workload controllers one type.
func made[C controller](f func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder) (C, error)) func(Config, record.EventRecorder) (controller, error) {
	return func(cfg Config, rec record.EventRecorder) (controller, error) {
		return f(cfg.Client, cfg.Informers, rec)
	}
}
