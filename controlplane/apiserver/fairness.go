package apiserver

import (
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/flowcontrol"
)

// fairness decides how requests are kept from drowning the server. By default that is a bound on how many run at once,
// which costs nothing. Priority and fairness sorts them into queues by FlowSchema objects; it needs two informers, a
// count of every resource's objects and a dozen timers, and is there for servers with many clients.
func (s *Server) fairness(c *genericapiserver.Config) {
	if !s.cfg.Fairness {
		c.StorageObjectCountTracker = nil
		// The bound works without this hook, which keeps its high-water mark in metrics, twice a second.
		c.DisabledPostStartHooks.Insert("max-in-flight-filter")
		return
	}
	s.counts = c.StorageObjectCountTracker
	c.FlowControl = flowcontrol.New(s.informers, s.client.FlowcontrolV1(), c.MaxRequestsInFlight+c.MaxMutatingRequestsInFlight)
}
