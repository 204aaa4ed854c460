package dra

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthalpha "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
)

// Drivers that offer it stream the health of their devices (KEP-4680); the status of containers shows it.

const (
	// staleAfter is how long a report holds that doesn't say so itself.
	staleAfter = 30 * time.Second
	// watchAgainAfter is between two tries to follow a driver's health.
	watchAgainAfter = 5 * time.Second
	// maxDevices of a driver are remembered: it may name any.
	maxDevices = 16384
	// maxHealthMessage is the API's bound.
	maxHealthMessage = 1024
)

type deviceID struct{ pool, name string }

// health is the last report on a device.
type health struct {
	state   corev1.ResourceHealthStatus
	message string
	until   time.Time // then nobody knows any more
}

// healthService is the one to follow, of those that a driver offers; "" if there is none.
func healthService(services []string) string {
	for _, s := range []string{healthapi.DRAResourceHealthService, healthalpha.DRAResourceHealthService} {
		if slices.Contains(services, s) {
			return s
		}
	}
	return ""
}

// open begins to follow an instance's devices: what it returns blocks until the next report.
func open(ctx context.Context, n *driver) (func() ([]*healthapi.DeviceHealth, error), error) {
	if n.health == healthalpha.DRAResourceHealthService {
		stream, err := healthalpha.NewDRAResourceHealthClient(n.conn).NodeWatchResources(ctx, &healthalpha.NodeWatchResourcesRequest{})
		return func() ([]*healthapi.DeviceHealth, error) {
			r, err := stream.Recv()
			return fromAlpha(r.GetDevices()), err
		}, err
	}
	stream, err := healthapi.NewDRAResourceHealthClient(n.conn).NodeWatchResources(ctx, &healthapi.NodeWatchResourcesRequest{})
	return func() ([]*healthapi.DeviceHealth, error) {
		r, err := stream.Recv()
		return r.GetDevices(), err
	}, err
}

func fromAlpha(list []*healthalpha.DeviceHealth) []*healthapi.DeviceHealth {
	var out []*healthapi.DeviceHealth
	for _, d := range list {
		out = append(out, &healthapi.DeviceHealth{
			Device: &healthapi.DeviceIdentifier{PoolName: d.GetDevice().GetPoolName(), DeviceName: d.GetDevice().GetDeviceName()},
			Health: healthapi.HealthStatus(d.GetHealth()), Message: d.GetMessage(), HealthCheckTimeoutSeconds: d.GetHealthCheckTimeoutSeconds(),
		})
	}
	return out
}

// watchHealth takes a driver's reports in as long as it is registered.
func (d *Drivers) watchHealth(ctx context.Context, n *driver) {
	for ctx.Err() == nil {
		next, err := open(ctx, n)
		for err == nil {
			var devices []*healthapi.DeviceHealth
			if devices, err = next(); err == nil {
				d.report(n.name, devices, time.Now())
			}
		}
		d.forget(n.name) // nobody vouches for what was said
		if status.Code(err) == codes.Unimplemented {
			return // it offers the service, and has nothing to tell
		}
		d.log.Debug("health of devices not followed, trying again", "driver", n.name, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(watchAgainAfter):
		}
	}
}

// report takes in what a driver says of all its devices. Those that it doesn't name keep their state until it is stale.
func (d *Drivers) report(name string, devices []*healthapi.DeviceHealth, now time.Time) {
	d.mu.Lock()
	known := d.healths[name]
	if known == nil {
		known = map[deviceID]health{}
		d.healths[name] = known
	}
	var changed []deviceID
	soonest := time.Duration(0)
	for _, dev := range devices {
		id := deviceID{dev.GetDevice().GetPoolName(), dev.GetDevice().GetDeviceName()}
		old, ok := known[id]
		if !ok && len(known) >= maxDevices {
			continue
		}
		next := reading(dev, now)
		known[id] = next
		if !ok || old.at(now) != next.at(now) {
			changed = append(changed, id)
		}
		if left := next.until.Sub(now); soonest == 0 || left < soonest {
			soonest = left
		}
	}
	if t := d.stale[name]; t != nil {
		t.Stop()
	}
	if soonest > 0 {
		d.stale[name] = time.AfterFunc(soonest+time.Second, func() { d.expired(name) })
	}
	d.mu.Unlock()
	if len(changed) > 0 {
		d.cfg.Sick(d.users(name, changed))
	}
}

// expired tells the pods of devices whose last report is stale.
func (d *Drivers) expired(name string) {
	now := time.Now()
	var changed []deviceID
	d.mu.Lock()
	for id, h := range d.healths[name] {
		if !now.Before(h.until) {
			changed = append(changed, id)
			delete(d.healths[name], id)
		}
	}
	d.mu.Unlock()
	if len(changed) > 0 {
		d.cfg.Sick(d.users(name, changed))
	}
}

func (d *Drivers) forget(name string) {
	d.mu.Lock()
	var had []deviceID
	for id := range d.healths[name] {
		had = append(had, id)
	}
	delete(d.healths, name)
	if t := d.stale[name]; t != nil {
		t.Stop()
		delete(d.stale, name)
	}
	d.mu.Unlock()
	if len(had) > 0 {
		d.cfg.Sick(d.users(name, had))
	}
}

// reading is what one report means.
func reading(dev *healthapi.DeviceHealth, now time.Time) health {
	h := health{state: corev1.ResourceHealthStatusUnknown, message: dev.GetMessage(), until: now.Add(staleAfter)}
	switch dev.GetHealth() {
	case healthapi.HealthStatus_HEALTHY:
		h.state = corev1.ResourceHealthStatusHealthy
	case healthapi.HealthStatus_UNHEALTHY:
		h.state = corev1.ResourceHealthStatusUnhealthy
	}
	if s := dev.GetHealthCheckTimeoutSeconds(); s > 0 {
		h.until = now.Add(time.Duration(min(s, 1e9)) * time.Second)
	}
	if len(h.message) > maxHealthMessage {
		h.message = h.message[:maxHealthMessage-3] + "..."
	}
	return h
}

// said is what holds of a report at a time.
type said struct {
	state   corev1.ResourceHealthStatus
	message string
}

func (h health) at(now time.Time) said {
	if h.state == "" || !now.Before(h.until) {
		return said{state: corev1.ResourceHealthStatusUnknown}
	}
	return said{h.state, h.message}
}

func (d *Drivers) healthOf(driver, pool, device string) said {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.healths[driver][deviceID{pool, device}].at(time.Now())
}

// Health is the health of the devices of a container's claims, by the pod's names for them. It is unknown where drivers
// don't tell.
func (c *Claims) Health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	var out []corev1.ResourceStatus
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name != container {
			continue
		}
		for _, use := range pod.Spec.Containers[i].Resources.Claims {
			s := corev1.ResourceStatus{Name: corev1.ResourceName("claim:" + use.Name)}
			if use.Request != "" {
				s.Name += corev1.ResourceName("/" + use.Request)
			}
			if s.Resources = c.healthOf(pod, use); len(s.Resources) > 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

func (c *Claims) healthOf(pod *corev1.Pod, use corev1.ResourceClaim) []corev1.ResourceHealth {
	name := ""
	for i := range pod.Spec.ResourceClaims {
		if pod.Spec.ResourceClaims[i].Name == use.Name {
			name, _, _ = claimName(pod, &pod.Spec.ResourceClaims[i]) // none yet: nothing to tell
		}
	}
	type named struct {
		driver string
		Device
	}
	var devices []named
	c.mu.Lock()
	if i := c.infos[types.NamespacedName{Namespace: pod.Namespace, Name: name}]; i != nil {
		for driver := range i.Drivers {
			for _, d := range i.of(driver, use.Request) {
				devices = append(devices, named{driver, d})
			}
		}
	}
	c.mu.Unlock()
	var out []corev1.ResourceHealth
	for _, d := range devices {
		id := corev1.ResourceID(d.driver + "/" + d.Pool + "/" + d.Name)
		if len(d.CDI) > 0 {
			id = corev1.ResourceID(d.CDI[0])
		}
		if slices.ContainsFunc(out, func(h corev1.ResourceHealth) bool { return h.ResourceID == id }) {
			continue
		}
		now := c.drivers.healthOf(d.driver, d.Pool, d.Name)
		h := corev1.ResourceHealth{ResourceID: id, Health: now.state}
		if now.message != "" {
			h.Message = &now.message
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b corev1.ResourceHealth) int { return cmp.Compare(a.ResourceID, b.ResourceID) })
	return out
}

// holders are the pods that use any of a driver's devices.
func (c *Claims) holders(driver string, devices []deviceID) []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []types.UID
	for _, i := range c.infos {
		if slices.ContainsFunc(i.Drivers[driver], func(d Device) bool { return slices.Contains(devices, deviceID{d.Pool, d.Name}) }) {
			out = append(out, i.Pods...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
