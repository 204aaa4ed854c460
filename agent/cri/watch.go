package cri

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/meter"
)

// Watch keeps cache true until ctx ends: it subscribes to the runtime's events, lists everything once, and follows the
// stream; when the stream breaks it starts over. synced is called after each full list.
func (c *Client) Watch(ctx context.Context, cache *Cache, log *slog.Logger, synced func()) error {
	for {
		err := c.follow(ctx, cache, synced)
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("event stream of the container runtime broke, reconnecting", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Client) follow(ctx context.Context, cache *Cache, synced func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	stream, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		c.Tally.Add(meter.EventStreamsFailed, 1)
		return fmt.Errorf("subscribe to container events: %w", err)
	}
	// The list comes after the subscription, so that no change falls between the two.
	subscribed(ctx, stream)
	c.Tally.Add(meter.EventStreams, 1)
	c.Tally.Since(meter.EventStreamLatency, begin)
	if last := c.seen.relisted(time.Now()); !last.IsZero() {
		c.Tally.Since(meter.RelistIntervals, last)
	}
	begin = time.Now()
	if err := c.List(ctx, cache); err != nil {
		return err
	}
	c.Tally.Since(meter.Relists, begin)
	synced()
	c.seen.following(true)
	defer c.seen.following(false)
	for {
		ev, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("container events: %w", err)
		}
		c.handle(ctx, cache, ev)
	}
}

// headerWait is how long a runtime may take to say that it has subscribed us. One that never says so (containerd sends its
// header with the first event) has long done it by then.
const headerWait = 200 * time.Millisecond

// subscribed waits until the runtime listens on our behalf: mote-runtime sends the stream's header then.
func subscribed(ctx context.Context, stream grpc.ClientStream) {
	header := make(chan struct{})
	go func() {
		defer close(header)
		_, _ = stream.Header() // a broken stream says so when it is read
	}()
	select {
	case <-header:
	case <-ctx.Done():
	case <-time.After(headerWait):
	}
}

func (c *Client) handle(ctx context.Context, cache *Cache, ev *runtimeapi.ContainerEventResponse) {
	id := ev.GetContainerId()
	if ev.GetContainerEventType() == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
		cache.Remove(id)
		return
	}
	if s := ev.GetPodSandboxStatus(); s != nil {
		cache.SetSandbox(s, ev.GetContainersStatuses())
		if id == s.GetId() {
			return
		}
		for _, st := range ev.GetContainersStatuses() {
			if st.GetId() == id {
				return
			}
		}
	}
	// A runtime that leaves the statuses out, or an event about a container that the snapshot missed: ask.
	if uid, ok := cache.Owner(id); ok || ev.GetPodSandboxStatus() != nil {
		if !ok {
			uid = types.UID(ev.GetPodSandboxStatus().GetMetadata().GetUid())
		}
		_ = c.RefreshContainer(ctx, cache, uid, ev.GetPodSandboxStatus().GetId(), id) // the next event or list mends it
	}
}

// RefreshContainer asks for one container's status and merges it. A container that is gone is removed.
func (c *Client) RefreshContainer(ctx context.Context, cache *Cache, uid types.UID, sandboxID, id string) error {
	r, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if IsNotFound(err) {
		cache.Remove(id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of container %s: %w", id, err)
	}
	cache.SetContainer(uid, sandboxID, r.GetStatus())
	return nil
}

// RefreshSandbox asks for one sandbox's status and merges it. A sandbox that is gone is removed.
func (c *Client) RefreshSandbox(ctx context.Context, cache *Cache, id string) error {
	r, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if IsNotFound(err) {
		cache.Remove(id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of sandbox %s: %w", id, err)
	}
	cache.SetSandbox(r.GetStatus(), r.GetContainersStatuses())
	return nil
}

// List reads everything that the runtime has and removes from the cache what it has no more.
func (c *Client) List(ctx context.Context, cache *Cache) error {
	before := cache.ids()
	sandboxes, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, s := range sandboxes.GetItems() {
		delete(before, s.GetId())
		if err := c.RefreshSandbox(ctx, cache, s.GetId()); err != nil {
			return err
		}
	}
	for _, s := range containers.GetContainers() {
		delete(before, s.GetId())
		uid := types.UID(s.GetLabels()[LabelPodUID])
		if uid == "" {
			continue
		}
		if err := c.RefreshContainer(ctx, cache, uid, s.GetPodSandboxId(), s.GetId()); err != nil {
			return err
		}
	}
	for id := range before {
		cache.Remove(id)
	}
	return nil
}
