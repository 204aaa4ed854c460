package controllers

import (
	"fmt"

	"github.com/mote-edge/mote/controlplane/controllers/certificates"
	"github.com/mote-edge/mote/controlplane/controllers/clusterrole"
	"github.com/mote-edge/mote/controlplane/controllers/nodeipam"
	"github.com/mote-edge/mote/controlplane/controllers/nodelifecycle"
	"github.com/mote-edge/mote/controlplane/controllers/podgc"
	"github.com/mote-edge/mote/controlplane/controllers/rootca"
	"github.com/mote-edge/mote/controlplane/controllers/serviceaccount"
	"github.com/mote-edge/mote/controlplane/controllers/ttlafterfinished"
)

// cluster lists the controllers of nodes, namespaces, identities, certificates, quota and storage.
func cluster(cfg Config) ([]entry, error) {
	var out []entry
	for _, e := range []struct {
		name string
		make func() (controller, error)
	}{
		{"nodeipam", func() (controller, error) {
			return nodeipam.New(nodeipam.Config{
				Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("cidrAllocator"),
				Cluster: cfg.ClusterCIDR, MaskSize: cfg.NodeMaskSize,
			})
		}},
		{"nodelifecycle", func() (controller, error) {
			return nodelifecycle.New(nodelifecycle.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: cfg.Recorder("node-controller")})
		}},
		{"podgc", func() (controller, error) {
			return podgc.New(podgc.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"ttlafterfinished", func() (controller, error) {
			return ttlafterfinished.New(ttlafterfinished.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"serviceaccount", func() (controller, error) {
			return serviceaccount.New(serviceaccount.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"rootca", func() (controller, error) {
			if len(cfg.RootCA) == 0 {
				return nil, nil
			}
			return rootca.New(rootca.Config{Client: cfg.Client, Informers: cfg.Informers, RootCA: cfg.RootCA})
		}},
		{"clusterrole", func() (controller, error) {
			return clusterrole.New(clusterrole.Config{Client: cfg.Client, Informers: cfg.Informers})
		}},
		{"certificates", func() (controller, error) {
			if cfg.SigningKey == nil {
				return nil, nil
			}
			return certificates.New(certificates.Config{
				Client: cfg.Client, Informers: cfg.Informers, Certificate: cfg.SigningCert, Key: cfg.SigningKey, Longest: cfg.SigningDuration,
			})
		}},
	} {
		c, err := e.make()
		if err != nil {
			return nil, fmt.Errorf("controller %s: %w", e.name, err)
		}
		if c != nil {
			out = append(out, entry{e.name, c})
		}
	}
	return out, nil
}
