package controllers

import (
	"fmt"

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
	var failed error
	add := func(name string, c controller, err error) {
		if err != nil && failed == nil {
			failed = fmt.Errorf("controller %s: %w", name, err)
		}
		out = append(out, entry{name, c})
	}
	{
		c, err := replicaset.New(cfg.Client, cfg.Informers, cfg.Recorder("replicaset-controller"))
		add("replicaset", c, err)
	}
	{
		c, err := replicaset.NewReplication(cfg.Client, cfg.Informers, cfg.Recorder("replication-controller"))
		add("replicationcontroller", c, err)
	}
	{
		c, err := deployment.New(cfg.Client, cfg.Informers, cfg.Recorder("deployment-controller"))
		add("deployment", c, err)
	}
	{
		c, err := endpointslice.New(cfg.Client, cfg.Informers, cfg.Recorder("endpoint-slice-controller"))
		add("endpointslice", c, err)
	}
	{
		c, err := endpoints.New(cfg.Client, cfg.Informers, cfg.Recorder("endpoint-controller"))
		add("endpoints", c, err)
	}
	{
		c, err := endpointslicemirroring.New(cfg.Client, cfg.Informers, cfg.Recorder("endpoint-slice-mirroring-controller"))
		add("endpointslicemirroring", c, err)
	}
	{
		c, err := daemonset.New(cfg.Client, cfg.Informers, cfg.Recorder("daemonset-controller"))
		add("daemonset", c, err)
	}
	{
		c, err := job.New(cfg.Client, cfg.Informers, cfg.Recorder("job-controller"))
		add("job", c, err)
	}
	{
		c, err := cronjob.New(cfg.Client, cfg.Informers, cfg.Recorder("cronjob-controller"))
		add("cronjob", c, err)
	}
	{
		c, err := statefulset.New(cfg.Client, cfg.Informers, cfg.Recorder("statefulset-controller"))
		add("statefulset", c, err)
	}
	if failed != nil {
		return nil, failed
	}
	return out, nil
}
