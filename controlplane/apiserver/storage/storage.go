// Package storage tells the API server's resources where and how they are stored: protobuf in etcd, through one client
// for all of them. (The library's own factory dials a gRPC connection, with two goroutines and four buffers, for each.)
//
// Reads:  etcd under /registry.
// Writes: the same, for the resources' REST storage; it compacts history.
package storage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	genericstorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	serverstorage "k8s.io/apiserver/pkg/server/storage"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc/metadata"
)

// Prefix is the root of the API's keys in etcd.
const Prefix = "/registry"

// Backend is etcd as the resources share it.
type Backend struct {
	client    *kubernetes.Client
	compactor interface {
		etcd3.Compactor
		Stop()
	}
	counts func() flowcontrolrequest.StorageObjectCountTracker
}

// NewBackend starts the compaction of history older than keep. Stop ends it. counts may return nil: objects aren't
// counted then.
func NewBackend(client *kubernetes.Client, keep time.Duration, counts func() flowcontrolrequest.StorageObjectCountTracker) *Backend {
	c := *client
	c.KV = etcd3.NewETCDLatencyTracker(client.KV)
	c.Kubernetes = &c
	return &Backend{
		client:    &c,
		compactor: etcd3.NewCompactor(client.Client, keep, clock.RealClock{}, func() {}),
		counts:    counts,
	}
}

// Stop ends the compaction.
func (b *Backend) Stop() { b.compactor.Stop() }

// Options is a generic.RESTOptionsGetter.
type Options struct {
	backend *Backend
	codecs  serializer.CodecFactory
	scheme  *runtime.Scheme
	// stored maps a group to the version its objects have in etcd; without an entry it is the preferred one.
	stored map[string]schema.GroupVersion
	media  string
	// grouped puts the group into the key, as custom resources need it.
	grouped bool
	codec   runtime.Codec

	mu    sync.Mutex
	cache map[schema.GroupVersion]codecPair
}

type codecPair struct {
	codec   runtime.Codec
	encoder runtime.GroupVersioner
}

var _ generic.RESTOptionsGetter = (*Options)(nil)

// BuiltIn returns the options of resources whose types are in the scheme. They are stored as protobuf, except those
// whose media type is given.
func (b *Backend) BuiltIn(scheme *runtime.Scheme, codecs serializer.CodecFactory, media string, stored ...schema.GroupVersion) *Options {
	o := &Options{
		backend: b, scheme: scheme, codecs: codecs, media: media,
		stored: map[string]schema.GroupVersion{}, cache: map[schema.GroupVersion]codecPair{},
	}
	for _, gv := range stored {
		o.stored[gv.Group] = gv
	}
	return o
}

// Custom returns the options of custom resources: JSON with the codec that the caller replaces per resource.
func (b *Backend) Custom(codec runtime.Codec) *Options {
	return &Options{backend: b, codec: codec, grouped: true}
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *Options) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	prefix := strings.ToLower(gr.Resource)
	if o.grouped {
		prefix = gr.Group + "/" + gr.Resource
	}
	if gr == (schema.GroupResource{Group: "events.k8s.io", Resource: "events"}) {
		gr.Group = ""
	}
	config := storagebackend.NewDefaultConfig(Prefix, nil)
	counts := o.backend.counts()
	config.StorageObjectCountTracker = counts
	config.CountMetricPollPeriod = 0
	if counts != nil {
		config.CountMetricPollPeriod = time.Minute
	}
	pair, err := o.codecFor(gr.Group, *config)
	if err != nil {
		return generic.RESTOptions{}, err
	}
	config.Codec, config.EncodeVersioner = pair.codec, pair.encoder
	return generic.RESTOptions{
		StorageConfig:             config.ForResource(gr),
		Decorator:                 o.backend.cached,
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   1,
		ResourcePrefix:            prefix,
		CountMetricPollPeriod:     config.CountMetricPollPeriod,
		StorageObjectCountTracker: counts,
	}, nil
}

func (o *Options) codecFor(group string, config storagebackend.Config) (codecPair, error) {
	if o.scheme == nil {
		return codecPair{codec: o.codec}, nil
	}
	gv, ok := o.stored[group]
	if !ok {
		versions := o.scheme.PrioritizedVersionsForGroup(group)
		if len(versions) == 0 {
			return codecPair{}, fmt.Errorf("API group %q is not in the scheme", group)
		}
		gv = versions[0]
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if p, ok := o.cache[gv]; ok {
		return p, nil
	}
	codec, encoder, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  o.media,
		StorageSerializer: o.codecs,
		StorageVersion:    gv,
		MemoryVersion:     schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal},
		Config:            config,
	})
	if err != nil {
		return codecPair{}, fmt.Errorf("codec of %s: %w", gv, err)
	}
	p := codecPair{codec, encoder}
	o.cache[gv] = p
	return p, nil
}

// raw is a storage.Interface straight onto etcd.
func (b *Backend) raw(config *storagebackend.ConfigForResource, prefix string, newFunc, newListFunc func() runtime.Object) (genericstorage.Interface, factory.DestroyFunc, error) {
	transformer := config.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := genericstorage.APIObjectVersioner{}
	s, err := etcd3.New(b.client, b.compactor, config.Codec, newFunc, newListFunc, config.Prefix, prefix, config.GroupResource,
		transformer, config.LeaseManagerConfig, etcd3.NewDefaultDecoder(config.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("storage of %s: %w", config.GroupResource, err)
	}
	return s, sync.OnceFunc(s.Close), nil
}

// cached is a storage.Interface with a watch cache over etcd.
func (b *Backend) cached(config *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs genericstorage.AttrFunc, triggers genericstorage.IndexerFuncs, indexers *cache.Indexers,
) (genericstorage.Interface, factory.DestroyFunc, error) {
	s, closeRaw, err := b.raw(config, prefix, newFunc, newListFunc)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             s,
		Versioner:           genericstorage.APIObjectVersioner{},
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix:      prefix,
		KeyFunc:             keyFunc,
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        attrs,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               config.Codec,
		Clock:               beat{},
	})
	if err != nil {
		closeRaw()
		return nil, nil, fmt.Errorf("watch cache of %s: %w", config.GroupResource, err)
	}
	d := cacher.NewCacheDelegator(c, s)
	return d, sync.OnceFunc(func() {
		d.Stop()
		c.Stop()
		closeRaw()
	}), nil
}

// Uncached returns a decorator without a watch cache: for what is rarely watched.
func (o *Options) Uncached() generic.StorageDecorator { return o.backend.Uncached }

// Uncached is the decorator itself.
func (b *Backend) Uncached(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, _ genericstorage.AttrFunc, _ genericstorage.IndexerFuncs, _ *cache.Indexers,
) (genericstorage.Interface, factory.DestroyFunc, error) {
	s, destroy, err := b.raw(config, prefix, newFunc, newListFunc)
	if err != nil {
		return nil, nil, err
	}
	return ownStream{s}, destroy, nil
}

// ownStream keeps the clients' watches off the stream of the watch caches: etcd answers a cache that asks how far it is to
// every watch of the stream, and a client would see bookmarks that it did not ask for.
type ownStream struct{ genericstorage.Interface }

func (s ownStream) Watch(ctx context.Context, key string, opts genericstorage.ListOptions) (watch.Interface, error) {
	return s.Interface.Watch(metadata.AppendToOutgoingContext(ctx, "watch", "uncached"), key, opts)
}
