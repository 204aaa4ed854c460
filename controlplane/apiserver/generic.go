package apiserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	restclient "k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/metrics"

	"github.com/mote-edge/mote/controlplane/pki"
	_ "github.com/mote-edge/mote/controlplane/quietqueues" // the libraries' queues don't wake an idle server
	"github.com/mote-edge/mote/controlplane/registry"
	"github.com/mote-edge/mote/internal/version"
)

// lean turns off what serves fleets of API servers or costs memory by the object. The gates are the library's, and
// process-wide.
var lean = sync.OnceFunc(func() {
	utilruntime.Must(utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.APIServerIdentity):                   false, // a lease and its heartbeat, for several servers
		string(features.DetectCacheInconsistency):            false, // reads all of etcd every five minutes
		string(features.ListFromCacheSnapshot):               false, // keeps old versions of every list
		string(features.SizeBasedListCostEstimate):           false, // for priority and fairness
		string(features.EtcdRangeStream):                     false, // the direct client has no streams for reads
		string(features.ConcurrentWatchObjectDecode):         false, // two goroutines a watch, for slow conversion webhooks
		string(features.UnknownVersionInteroperabilityProxy): false,
		string(features.WatchListCompression):                false, // compresses each event of a watch that began with a list, for hours
	}))
	metrics.SetDisabledMetrics(costlyMetrics)
	// Our own clients needn't be warned of what our own code sends.
	restclient.SetDefaultWarningHandler(restclient.NoWarnings{})
})

// costlyMetrics are histograms with a series for every resource and verb, which together are a tenth of an idle server's
// heap. What they say is in apiserver_request_duration_seconds too, or is of use to the library's developers.
var costlyMetrics = []string{
	"etcd_request_duration_seconds", "apiserver_watch_list_duration_seconds", "apiserver_request_sli_duration_seconds",
	"apiserver_request_slo_duration_seconds", "apiserver_watch_events_sizes", "apiserver_request_body_size_bytes",
	"apiserver_response_sizes", "apiserver_watch_events_dispatch_duration_seconds", "apiserver_watch_cache_initialization_duration_seconds",
	"apiserver_storage_list_duration_seconds", "apiserver_watch_cache_read_wait_seconds", "workqueue_work_duration_seconds",
	"workqueue_queue_duration_seconds", "field_validation_request_duration_seconds",
}

// effective is the library's version with Mote's name in what /version shows.
type effective struct {
	basecompatibility.EffectiveVersion
}

func (e effective) Info() *utilversion.Info {
	info := *e.EffectiveVersion.Info()
	info.GitVersion, info.GitCommit, info.GitTreeState = version.GitVersion(), version.Commit, "clean"
	parts := strings.SplitN(strings.TrimPrefix(version.Kubernetes, "v"), ".", 3)
	info.Major, info.Minor = parts[0], parts[1]
	return &info
}

// When the server stops, watches are told at once to end, and requests get stopRequests to do so: whoever is still there
// after that would have to try again anyway.
const stopWatches, stopRequests = time.Second, 5 * time.Second

// generic is the configuration that the three servers of the chain share.
func (s *Server) generic() (*genericapiserver.Config, error) {
	c := genericapiserver.NewConfig(registry.Codecs())
	c.EffectiveVersion = effective{compatibility.DefaultComponentGlobalsRegistry.EffectiveVersionFor(basecompatibility.DefaultKubeComponent)}
	c.FeatureGate = utilfeature.DefaultFeatureGate
	c.PublicAddress = s.cfg.AdvertiseAddress
	c.ExternalAddress = net.JoinHostPort(s.cfg.AdvertiseAddress.String(), fmt.Sprint(s.cfg.listenPort()))
	c.LoopbackClientConfig = s.loopback
	c.EnableProfiling = s.cfg.Profiling
	c.EnableIndex = true
	c.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
	c.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	c.RequestTimeout = time.Minute
	c.ShutdownWatchTerminationGracePeriod = stopWatches
	s.fairness(c)
	c.SecureServing = &genericapiserver.SecureServingInfo{
		Listener: s.cfg.Listener,
		Cert:     leafProvider{s.serving},
		// Idle clients are many and small here.
		HTTP2MaxStreamsPerConnection: 250,
	}
	clientCA, err := dynamiccertificates.NewStaticCAContent("client-ca", s.cfg.PKI.CA.CertPEM)
	if err != nil {
		return nil, fmt.Errorf("load the client authority: %w", err)
	}
	proxyCA, err := dynamiccertificates.NewStaticCAContent("front-proxy-ca", s.cfg.PKI.FrontProxy.CertPEM)
	if err != nil {
		return nil, fmt.Errorf("load the front proxy's authority: %w", err)
	}
	if err := s.authentication(c, clientCA, proxyCA); err != nil {
		return nil, err
	}
	if err := s.authorization(c); err != nil {
		return nil, err
	}
	c.AddHealthChecks(healthz.NamedCheck("etcd", func(r *http.Request) error { return s.cfg.Etcd.Healthy(r.Context()) }))
	c.ReadyzChecks = append(c.ReadyzChecks, healthz.NamedCheck("bootstrap", func(*http.Request) error {
		select {
		case <-s.ready:
			return nil
		default:
			return errors.New("the objects that a cluster begins with are still being made")
		}
	}))
	return c, nil
}

// leafProvider shows a pki.Leaf to the library.
type leafProvider struct{ *pki.Leaf }

var _ dynamiccertificates.CertKeyContentProvider = leafProvider{}

func (l leafProvider) AddListener(x dynamiccertificates.Listener) { l.NotifyOnChange(x) }
