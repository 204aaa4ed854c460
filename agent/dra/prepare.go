package dra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
)

// Prepare has the drivers of a pod's claims ready their devices. Claims that are ready, for this pod or another one, are
// not asked for again.
func (c *Claims) Prepare(ctx context.Context, pod *corev1.Pod) error {
	all, err := names(pod)
	if err == nil && !c.ready(pod, all) {
		err = c.prepare(ctx, pod, all)
	}
	if err != nil {
		return fmt.Errorf("Failed to prepare dynamic resources: prepare dynamic resources: %w", err)
	}
	return nil
}

// ready tells whether an agent before this one, or a try before this one, has prepared everything for the pod already.
func (c *Claims) ready(pod *corev1.Pod, all map[string]bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range all {
		i := c.infos[types.NamespacedName{Namespace: pod.Namespace, Name: name}]
		if i == nil || !i.Prepared || !slices.Contains(i.Pods, pod.UID) {
			return false
		}
	}
	return true
}

func (c *Claims) prepare(ctx context.Context, pod *corev1.Pod, all map[string]bool) error {
	if c.cfg.API == nil {
		return errors.New("a node without an API server serves no resource claims")
	}
	var held []*info
	defer func() {
		for _, i := range held {
			i.busy.Unlock()
		}
	}()
	batches := map[string][]*info{}
	for _, name := range slices.Sorted(maps.Keys(all)) { // in order: pods that share claims must not wait for each other
		claim, err := c.cfg.API.ResourceClaim(ctx, pod.Namespace, name)
		if err != nil {
			return fmt.Errorf("fetch ResourceClaim %s: %w", name, err)
		}
		if err := Check(pod, claim, all[name]); err != nil {
			return err
		}
		// Without their drivers nothing is begun: there would be nobody to undo it.
		for _, r := range claim.Status.Allocation.Devices.Results {
			if _, err := c.drivers.get(r.Driver); err != nil {
				return err
			}
		}
		i, err := c.use(pod, claim)
		if err != nil {
			return err
		}
		held = append(held, i)
		if i.Prepared {
			continue
		}
		for driver := range i.Drivers {
			batches[driver] = append(batches[driver], i)
		}
	}
	for _, driver := range slices.Sorted(maps.Keys(batches)) {
		if err := c.ask(ctx, driver, batches[driver]); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range held {
		i.Prepared = true
	}
	return c.save()
}

// use notes, on disk first of all, that the pod uses a claim, and returns it locked.
func (c *Claims) use(pod *corev1.Pod, claim *resourcev1.ResourceClaim) (*info, error) {
	key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	for {
		c.mu.Lock()
		i := c.infos[key]
		if i == nil {
			i = &info{UID: claim.UID, Namespace: claim.Namespace, Name: claim.Name, Drivers: map[string][]Device{}, busy: &sync.Mutex{}}
			for _, r := range claim.Status.Allocation.Devices.Results {
				i.Drivers[r.Driver] = nil
			}
			c.infos[key] = i
		}
		c.mu.Unlock()
		i.busy.Lock()
		c.mu.Lock()
		if c.infos[key] != i { // given back meanwhile
			c.mu.Unlock()
			i.busy.Unlock()
			continue
		}
		var err error
		if i.UID != claim.UID {
			err = fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", claim.Name, i.UID)
		} else if !slices.Contains(i.Pods, pod.UID) {
			i.Pods = append(i.Pods, pod.UID)
			err = c.save()
		}
		c.mu.Unlock()
		if err != nil {
			i.busy.Unlock()
			return nil, err
		}
		return i, nil
	}
}

// ask has one driver prepare claims. They are locked.
func (c *Claims) ask(ctx context.Context, driver string, claims []*info) error {
	api, err := c.drivers.get(driver)
	if err != nil {
		return err
	}
	req := &draapi.NodePrepareResourcesRequest{}
	for _, i := range claims {
		req.Claims = append(req.Claims, &draapi.Claim{Namespace: i.Namespace, Uid: string(i.UID), Name: i.Name})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := api.NodePrepareResources(ctx, req)
	if err != nil {
		return fmt.Errorf("NodePrepareResources: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range claims {
		r := answer.GetClaims()[string(i.UID)]
		if r == nil {
			return fmt.Errorf("NodePrepareResources skipped %d ResourceClaims", len(claims)-len(answer.GetClaims()))
		}
		if r.GetError() != "" {
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", i.Name, r.GetError())
		}
		i.Drivers[driver] = nil
		for _, d := range r.GetDevices() {
			i.Drivers[driver] = append(i.Drivers[driver], Device{Requests: d.GetRequestNames(), Pool: d.GetPoolName(), Name: d.GetDeviceName(), CDI: d.GetCdiDeviceIds()})
		}
	}
	return nil
}

// Release undoes Prepare for a pod that has ended. Drivers are told when no other pod uses the claim.
func (c *Claims) Release(ctx context.Context, uid types.UID) error {
	c.mu.Lock()
	var mine []*info
	for _, i := range c.infos {
		if slices.Contains(i.Pods, uid) {
			mine = append(mine, i)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(mine, func(a, b *info) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	var errs []error
	for _, i := range mine {
		if err := c.release(ctx, i, uid); err != nil {
			errs = append(errs, fmt.Errorf("unprepare dynamic resources: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (c *Claims) release(ctx context.Context, i *info, uid types.UID) error {
	i.busy.Lock()
	defer i.busy.Unlock()
	c.mu.Lock()
	last := len(i.Pods) == 1 && i.Pods[0] == uid
	if !last {
		i.Pods = slices.DeleteFunc(i.Pods, func(p types.UID) bool { return p == uid })
		err := c.save()
		c.mu.Unlock()
		return err
	}
	i.Prepared = false // whatever happens now, the next pod has to ask anew
	names := slices.Sorted(maps.Keys(i.Drivers))
	c.mu.Unlock()
	for _, name := range names {
		if err := c.undo(ctx, name, i); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.infos, types.NamespacedName{Namespace: i.Namespace, Name: i.Name})
	return c.save()
}

func (c *Claims) undo(ctx context.Context, driver string, i *info) error {
	api, err := c.drivers.get(driver)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := api.NodeUnprepareResources(ctx, &draapi.NodeUnprepareResourcesRequest{Claims: []*draapi.Claim{{Namespace: i.Namespace, Uid: string(i.UID), Name: i.Name}}})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	r, ok := answer.GetClaims()[string(i.UID)]
	if !ok {
		return fmt.Errorf("NodeUnprepareResources skipped ResourceClaim %s", i.Name)
	}
	if r.GetError() != "" {
		return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", i.Name, r.GetError())
	}
	return nil
}
