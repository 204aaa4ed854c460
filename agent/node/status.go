package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is the container runtime, as far as the node reports about it.
type Runtime interface {
	Status(ctx context.Context) (*runtimeapi.StatusResponse, error)
	Version(ctx context.Context) (*runtimeapi.VersionResponse, error)
	Images(ctx context.Context) ([]*runtimeapi.Image, error)
}

// CRI is the Runtime behind a CRI connection.
type CRI struct {
	Runtimes runtimeapi.RuntimeServiceClient
	Store    runtimeapi.ImageServiceClient
}

var _ Runtime = CRI{}

// Status implements Runtime.
func (c CRI) Status(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	return c.Runtimes.Status(ctx, &runtimeapi.StatusRequest{})
}

// Version implements Runtime.
func (c CRI) Version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	return c.Runtimes.Version(ctx, &runtimeapi.VersionRequest{})
}

// Images implements Runtime.
func (c CRI) Images(ctx context.Context) ([]*runtimeapi.Image, error) {
	resp, err := c.Store.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	return resp.GetImages(), err
}

// callFor bounds one look at the runtime.
const callFor = 10 * time.Second

// keepStatus looks at the node when poked, and now and then, and sends what has changed.
func (n *Node) keepStatus(ctx context.Context) {
	var sent corev1.NodeStatus
	var reported time.Time
	hurry, complained := 50*time.Millisecond, ""
	for {
		wait := n.cfg.LookEvery
		if n.takeGone() {
			if err := n.register(ctx); err != nil {
				return
			}
			sent, reported = corev1.NodeStatus{}, time.Time{}
		}
		status, err := n.look(ctx, sent)
		now := time.Now()
		if !now.Before(reported.Add(n.cfg.ReportEvery)) || differs(sent, status) {
			if err = n.report(ctx, sent, status); err == nil {
				sent, reported = status, now
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if text := err.Error(); text != complained {
				complained = text
				n.cfg.Log.Warn("node status isn't up to date", "node", n.cfg.Name, "error", err)
			}
			wait = time.Second
		case !isReady(status.Conditions):
			// Something is about to come up: the runtime, its network. Look again soon, then less often.
			wait, hurry = hurry, min(2*hurry, n.cfg.LookEvery)
		default:
			hurry, complained = 50*time.Millisecond, ""
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-n.wake:
			hurry = 50 * time.Millisecond
		case <-timer.C:
		}
		timer.Stop()
	}
}

// takeGone tells whether the Node object was deleted since it was last asked.
func (n *Node) takeGone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	gone := n.gone
	n.gone = false
	return gone
}

// look works out the status of this moment.
func (n *Node) look(ctx context.Context, sent corev1.NodeStatus) (corev1.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	n.mu.Lock()
	old := sent.Conditions
	if len(old) == 0 && n.registered != nil {
		old = n.registered.Status.Conditions
	}
	wantImages := n.images
	n.images = false
	n.mu.Unlock()

	o := observed{}
	s := n.base()
	s.NodeInfo.ContainerRuntimeVersion, s.Images = sent.NodeInfo.ContainerRuntimeVersion, sent.Images
	answer, err := n.cfg.Runtime.Status(ctx)
	if err == nil {
		o.runtime = answer.Status
		s.RuntimeHandlers, s.Features = handlers(answer), features(answer)
		if s.NodeInfo.ContainerRuntimeVersion == "" || !isReady(old) {
			if v, err := n.cfg.Runtime.Version(ctx); err == nil {
				s.NodeInfo.ContainerRuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
			}
		}
		if wantImages {
			if list, err := n.cfg.Runtime.Images(ctx); err == nil {
				s.Images = images(list, n.cfg.MaxImages)
			}
		}
	} else {
		n.ImagesChanged() // look again once it answers
	}
	if n.cfg.Pressure != nil {
		o.memory, o.disk, o.pids = n.cfg.Pressure()
	}
	if n.cfg.Faults != nil {
		o.faults = n.cfg.Faults()
	}
	s.Conditions = conditions(old, o, time.Now())
	return s, nil
}

// resources are what the node has and what it gives, plugins' devices included.
func (n *Node) resources() (capacity, give corev1.ResourceList) {
	capacity = n.facts.capacity(n.cfg.MaxPods)
	give = allocatable(capacity, n.cfg.Reserved(capacity))
	have, healthy := n.cfg.Devices()
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range have {
		n.plugged[name] = true
	}
	for name := range n.plugged {
		capacity[name], give[name] = *resource.NewQuantity(0, resource.DecimalSI), *resource.NewQuantity(0, resource.DecimalSI)
		if _, ok := have[name]; ok {
			capacity[name], give[name] = have[name], healthy[name]
		}
	}
	return capacity, give
}

// base is the part of the status that comes from the machine.
func (n *Node) base() corev1.NodeStatus {
	capacity, give := n.resources()
	s := corev1.NodeStatus{
		Capacity:         capacity,
		DeclaredFeatures: n.cfg.DeclaredFeatures,
		Allocatable:      give,
		Addresses:        addresses(n.cfg.Addresses, n.cfg.Name),
		DaemonEndpoints:  corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(n.cfg.KubeletPort)}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: n.facts.machineID, SystemUUID: n.facts.systemUUID, BootID: n.facts.bootID,
			KernelVersion: n.facts.kernel, OSImage: n.facts.os, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
			KubeletVersion: n.cfg.KubeletVersion,
		},
	}
	if n.facts.swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &n.facts.swap}
	}
	return s
}

// object is the Node as it is registered.
func (n *Node) object() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: n.wantLabels(), Annotations: map[string]string{
		"volumes.kubernetes.io/controller-managed-attach-detach": "true",
	}}}
	if !n.cfg.AttachDetach {
		node.Annotations = nil
	}
	node.Spec.Taints, node.Spec.ProviderID = n.cfg.Taints, n.cfg.ProviderID
	node.Status = n.base()
	node.Status.Conditions = conditions(nil, observed{}, time.Now())
	return node
}

func (n *Node) wantLabels() map[string]string {
	host := n.cfg.Name
	labels := map[string]string{
		corev1.LabelHostname: host, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for k, v := range n.cfg.Labels {
		labels[k] = v
	}
	return labels
}

func addresses(ips []netip.Addr, name string) []corev1.NodeAddress {
	var out []corev1.NodeAddress
	for _, ip := range ips {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	if host, err := os.Hostname(); err == nil && name == "" {
		name = host
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
}

// report sends a status. A Node that is gone is registered again.
func (n *Node) report(ctx context.Context, sent, status corev1.NodeStatus) error {
	call, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	patch, err := statusPatch(sent, status)
	if err != nil {
		return err
	}
	got, err := n.cfg.API.PatchNode(call, patch, "status")
	if apierrors.IsNotFound(err) {
		if err := n.register(ctx); err != nil {
			return err
		}
		if patch, err = statusPatch(corev1.NodeStatus{}, status); err != nil {
			return err
		}
		got, err = n.cfg.API.PatchNode(call, patch, "status")
	}
	if err != nil {
		return fmt.Errorf("status of node %s: %w", n.cfg.Name, err)
	}
	n.mu.Lock()
	old := sent.Conditions
	if len(old) == 0 && n.registered != nil {
		old = n.registered.Status.Conditions
	}
	n.registered = got
	n.mu.Unlock()
	for _, reason := range transitions(old, status.Conditions) {
		n.cfg.Event(corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", n.cfg.Name, reason))
	}
	if isReady(status.Conditions) && !closed(n.ready) {
		close(n.ready)
	}
	return nil
}

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// statusPatch is a strategic merge patch with the parts that changed. Conditions merge by type, so others' stay;
// addresses are replaced as a whole.
func statusPatch(sent, status corev1.NodeStatus) ([]byte, error) {
	part := map[string]any{"conditions": status.Conditions}
	add := func(name string, old, now any) {
		if !equality.Semantic.DeepEqual(old, now) {
			part[name] = now
		}
	}
	add("capacity", sent.Capacity, status.Capacity)
	add("allocatable", sent.Allocatable, status.Allocatable)
	add("daemonEndpoints", sent.DaemonEndpoints, status.DaemonEndpoints)
	add("nodeInfo", sent.NodeInfo, status.NodeInfo)
	add("images", sent.Images, status.Images)
	add("runtimeHandlers", sent.RuntimeHandlers, status.RuntimeHandlers)
	add("features", sent.Features, status.Features)
	add("declaredFeatures", sent.DeclaredFeatures, status.DeclaredFeatures)
	if !equality.Semantic.DeepEqual(sent.Addresses, status.Addresses) {
		list := []any{map[string]string{"$patch": "replace"}}
		for _, a := range status.Addresses {
			list = append(list, a)
		}
		part["addresses"] = list
	}
	return json.Marshal(map[string]any{"status": part})
}

// labelPatch sets the labels that are missing or differ; nil if there are none.
func labelPatch(have, want map[string]string) []byte {
	set := map[string]string{}
	for k, v := range want {
		if have[k] != v {
			set[k] = v
		}
	}
	if len(set) == 0 {
		return nil
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": set}})
	if err != nil {
		return nil // strings always marshal
	}
	return b
}

// differs tells whether a status is news, heartbeats aside.
func differs(a, b corev1.NodeStatus) bool {
	return !equality.Semantic.DeepEqual(still(a), still(b))
}

func still(s corev1.NodeStatus) corev1.NodeStatus {
	s.Conditions = slices.Clone(s.Conditions)
	for i := range s.Conditions {
		s.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return s
}

func isReady(list []corev1.NodeCondition) bool {
	return slices.ContainsFunc(list, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// images are the largest ones, as schedulers want to know them.
func images(list []*runtimeapi.Image, most int) []corev1.ContainerImage {
	var out []corev1.ContainerImage
	for _, i := range list {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 5 {
			names = names[:5]
		}
		if len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
		}
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	if most < 0 {
		return out
	}
	return out[:min(len(out), most)]
}

func handlers(s *runtimeapi.StatusResponse) []corev1.NodeRuntimeHandler {
	var out []corev1.NodeRuntimeHandler
	for _, h := range s.RuntimeHandlers {
		f := &corev1.NodeRuntimeHandlerFeatures{}
		if h.Features != nil {
			f.RecursiveReadOnlyMounts, f.UserNamespaces = &h.Features.RecursiveReadOnlyMounts, &h.Features.UserNamespaces
		}
		out = append(out, corev1.NodeRuntimeHandler{Name: h.Name, Features: f})
	}
	slices.SortFunc(out, func(a, b corev1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func features(s *runtimeapi.StatusResponse) *corev1.NodeFeatures {
	if s.Features == nil {
		return nil
	}
	return &corev1.NodeFeatures{SupplementalGroupsPolicy: &s.Features.SupplementalGroupsPolicy}
}
