package cri

import (
	"errors"
	"io"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func labelled(value string) func(*api.PodSandboxConfig) {
	return func(c *api.PodSandboxConfig) {
		c.Labels, c.Annotations = map[string]string{"app": value, "list": "yes"}, map[string]string{"note": "of " + value}
		c.Metadata.Attempt = 3
	}
}

func podIDs(t *testing.T, filter *api.PodSandboxFilter) []string {
	t.Helper()
	reply, err := shared.rt.ListPodSandbox(testContext(t), &api.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, item := range reply.Items {
		ids = append(ids, item.Id)
	}
	slices.Sort(ids)
	return ids
}

func containerIDs(t *testing.T, filter *api.ContainerFilter) []string {
	t.Helper()
	reply, err := shared.rt.ListContainers(testContext(t), &api.ListContainersRequest{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, item := range reply.Containers {
		ids = append(ids, item.Id)
	}
	slices.Sort(ids)
	return ids
}

func sorted(ids ...string) []string {
	slices.Sort(ids)
	return ids
}

func TestListSandboxes(t *testing.T) {
	a, b := newPod(t, labelled("a")), newPod(t, labelled("b"))
	ready := &api.PodSandboxStateValue{State: api.PodSandboxState_SANDBOX_READY}
	notReady := &api.PodSandboxStateValue{State: api.PodSandboxState_SANDBOX_NOTREADY}
	both := map[string]string{"list": "yes"}
	if _, err := shared.rt.StopPodSandbox(testContext(t), &api.StopPodSandboxRequest{PodSandboxId: b.id}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		filter *api.PodSandboxFilter
		want   []string
	}{
		"id":               {&api.PodSandboxFilter{Id: a.id}, []string{a.id}},
		"its beginning":    {&api.PodSandboxFilter{Id: a.id[:13]}, []string{a.id}},
		"label":            {&api.PodSandboxFilter{LabelSelector: map[string]string{"app": "b"}}, []string{b.id}},
		"shared label":     {&api.PodSandboxFilter{LabelSelector: both}, sorted(a.id, b.id)},
		"two labels":       {&api.PodSandboxFilter{LabelSelector: map[string]string{"app": "a", "list": "no"}}, nil},
		"ready":            {&api.PodSandboxFilter{LabelSelector: both, State: ready}, []string{a.id}},
		"not ready":        {&api.PodSandboxFilter{LabelSelector: both, State: notReady}, []string{b.id}},
		"id and state":     {&api.PodSandboxFilter{Id: a.id, State: notReady}, nil},
		"id and label":     {&api.PodSandboxFilter{Id: a.id, LabelSelector: map[string]string{"app": "b"}}, nil},
		"a label too many": {&api.PodSandboxFilter{LabelSelector: map[string]string{"other": "yes"}}, nil},
	} {
		if got := podIDs(t, test.filter); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	// api.proto: what was given at creation is preserved.
	st := a.status()
	if st.Metadata.Name != a.config.Metadata.Name || st.Metadata.Attempt != 3 || st.Metadata.Uid != a.config.Metadata.Uid ||
		!maps.Equal(st.Labels, a.config.Labels) || !maps.Equal(st.Annotations, a.config.Annotations) || st.CreatedAt == 0 ||
		st.Linux.GetNamespaces().GetOptions().GetNetwork() != api.NamespaceMode_NODE {
		t.Errorf("status: %v", st)
	}
	byShort, err := shared.rt.PodSandboxStatus(testContext(t), &api.PodSandboxStatusRequest{PodSandboxId: a.id[:13]})
	if err != nil || byShort.Status.Id != a.id {
		t.Errorf("status by the beginning of the ID: %v, %v", byShort, err)
	}
}

func TestListContainers(t *testing.T) {
	p, other := newPod(t), newPod(t)
	labels := func(value string) func(*api.ContainerConfig) {
		return func(c *api.ContainerConfig) {
			c.Labels, c.Annotations, c.Metadata.Attempt = map[string]string{"c": value, "list": "c"}, map[string]string{"note": value}, 2
		}
	}
	running := p.run("sleep 1000", labels("running"))
	exited := p.run("exit 0", labels("exited"))
	exited.wait()
	config := containerConfig("sleep", "1000")
	labels("created")(config)
	created := p.create(config)
	elsewhere := other.run("sleep 1000", labels("elsewhere"))
	state := func(s api.ContainerState) *api.ContainerStateValue { return &api.ContainerStateValue{State: s} }
	all := map[string]string{"list": "c"}
	for name, test := range map[string]struct {
		filter *api.ContainerFilter
		want   []string
	}{
		"id":            {&api.ContainerFilter{Id: running.id}, []string{running.id}},
		"its beginning": {&api.ContainerFilter{Id: running.id[:13]}, []string{running.id}},
		"pod":           {&api.ContainerFilter{PodSandboxId: p.id[:13]}, sorted(running.id, exited.id, created.id)},
		"label":         {&api.ContainerFilter{LabelSelector: all}, sorted(running.id, exited.id, created.id, elsewhere.id)},
		"running":       {&api.ContainerFilter{PodSandboxId: p.id, State: state(api.ContainerState_CONTAINER_RUNNING)}, []string{running.id}},
		"exited":        {&api.ContainerFilter{LabelSelector: all, State: state(api.ContainerState_CONTAINER_EXITED)}, []string{exited.id}},
		"created":       {&api.ContainerFilter{LabelSelector: all, State: state(api.ContainerState_CONTAINER_CREATED)}, []string{created.id}},
		"wrong pod":     {&api.ContainerFilter{Id: running.id, PodSandboxId: other.id}, nil},
	} {
		if got := containerIDs(t, test.filter); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	st := running.status()
	if st.Metadata.Attempt != 2 || !maps.Equal(st.Labels, map[string]string{"c": "running", "list": "c"}) || st.Annotations["note"] != "running" ||
		st.LogPath != running.logPath || st.Image.GetImage() != testImage || st.ImageRef == "" {
		t.Errorf("status: %v", st)
	}
	if out, err := shared.rt.ExecSync(testContext(t), &api.ExecSyncRequest{ContainerId: running.id[:13], Cmd: []string{"echo", "short"}}); err != nil || string(out.Stdout) != "short\n" {
		t.Errorf("exec by the beginning of the ID: %v, %v", out, err)
	}
}

// receive reads a list stream to its end.
func receive[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) []*T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var all []*T
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if status.Code(err) == codes.Unimplemented && shared.kind != "mote" {
			t.Skip("this runtime has no list streams")
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, message)
	}
}

func TestListStreams(t *testing.T) {
	needsControllers(t)
	p := newPod(t, labelled("streams"))
	c := p.run("sleep 1000", func(c *api.ContainerConfig) { c.Labels = map[string]string{"stream": "yes"} })
	ctx := testContext(t)
	pods, err := shared.rt.StreamPodSandboxes(ctx, &api.StreamPodSandboxesRequest{Filter: &api.PodSandboxFilter{LabelSelector: map[string]string{"app": "streams"}}})
	if got := receive(t, pods, err); len(got) != 1 || len(got[0].PodSandboxes) != 1 || got[0].PodSandboxes[0].Id != p.id {
		t.Errorf("sandboxes: %v", got)
	}
	containers, err := shared.rt.StreamContainers(ctx, &api.StreamContainersRequest{Filter: &api.ContainerFilter{PodSandboxId: p.id}})
	if got := receive(t, containers, err); len(got) != 1 || len(got[0].Containers) != 1 || got[0].Containers[0].Id != c.id {
		t.Errorf("containers: %v", got)
	}
	stats, err := shared.rt.StreamContainerStats(ctx, &api.StreamContainerStatsRequest{Filter: &api.ContainerStatsFilter{LabelSelector: map[string]string{"stream": "yes"}}})
	if got := receive(t, stats, err); len(got) != 1 || got[0].ContainerStats[0].Attributes.Id != c.id {
		t.Errorf("container stats: %v", got)
	}
	podStats, err := shared.rt.StreamPodSandboxStats(ctx, &api.StreamPodSandboxStatsRequest{Filter: &api.PodSandboxStatsFilter{Id: p.id}})
	if got := receive(t, podStats, err); len(got) != 1 || got[0].PodSandboxStats[0].Attributes.Id != p.id {
		t.Errorf("pod stats: %v", got)
	}
	images, err := shared.images.StreamImages(ctx, &api.StreamImagesRequest{Filter: &api.ImageFilter{Image: &api.ImageSpec{Image: testImage}}})
	if got := receive(t, images, err); len(got) != 1 || !slices.ContainsFunc(got[0].Images, func(i *api.Image) bool { return slices.Contains(i.RepoTags, testImage) }) {
		t.Errorf("images: %v", got)
	}
	metrics, err := shared.rt.StreamPodSandboxMetrics(ctx, &api.StreamPodSandboxMetricsRequest{})
	if got := receive(t, metrics, err); len(got) == 0 || !slices.ContainsFunc(got[0].PodSandboxMetrics, func(m *api.PodSandboxMetrics) bool { return m.PodSandboxId == p.id }) {
		t.Errorf("metrics: %v", got)
	}
}

func TestMetrics(t *testing.T) {
	needsControllers(t)
	ctx := testContext(t)
	empty := newPod(t)
	p := newPod(t)
	c := p.run("sleep 1000")
	descriptors, err := shared.rt.ListMetricDescriptors(ctx, &api.ListMetricDescriptorsRequest{})
	if status.Code(err) == codes.Unimplemented && shared.kind != "mote" {
		t.Skip("this runtime has no metrics")
	}
	if err != nil || len(descriptors.Descriptors) == 0 {
		t.Fatalf("descriptors: %v, %v", descriptors, err)
	}
	labels := map[string]int{}
	for _, d := range descriptors.Descriptors {
		if d.Name == "" || d.Help == "" {
			t.Errorf("descriptor %v", d)
		}
		labels[d.Name] = len(d.LabelKeys)
	}
	reply, err := shared.rt.ListPodSandboxMetrics(ctx, &api.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	byPod := map[string]*api.PodSandboxMetrics{}
	for _, m := range reply.PodMetrics {
		byPod[m.PodSandboxId] = m
	}
	if byPod[empty.id] == nil {
		t.Error("a pod without containers is missing")
	}
	mine := byPod[p.id]
	if mine == nil || len(mine.ContainerMetrics) != 1 || mine.ContainerMetrics[0].ContainerId != c.id || len(mine.ContainerMetrics[0].Metrics) == 0 {
		t.Fatalf("the pod's metrics: %v", mine)
	}
	for _, m := range mine.ContainerMetrics[0].Metrics {
		if count, known := labels[m.Name]; !known || count != len(m.LabelValues) {
			t.Errorf("metric %v has no descriptor like it", m)
		}
	}
}

func TestRuntimeInfo(t *testing.T) {
	ctx := testContext(t)
	version, err := shared.rt.Version(ctx, &api.VersionRequest{})
	if err != nil || version.Version != "0.1.0" || version.RuntimeApiVersion != "v1" || version.RuntimeName == "" || version.RuntimeVersion == "" {
		t.Errorf("version: %v, %v", version, err)
	}
	reply, err := shared.rt.Status(ctx, &api.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	conditions := map[string]bool{}
	for _, c := range reply.Status.Conditions {
		conditions[c.Type] = c.Status
	}
	if !conditions["RuntimeReady"] || !conditions["NetworkReady"] || len(reply.Info) == 0 || len(reply.RuntimeHandlers) == 0 {
		t.Errorf("status: %v", reply)
	}
	if !reply.Features.GetSupplementalGroupsPolicy() || !reply.RuntimeHandlers[0].Features.GetRecursiveReadOnlyMounts() {
		t.Errorf("features: %v", reply)
	}
	config, err := shared.rt.RuntimeConfig(ctx, &api.RuntimeConfigRequest{})
	if err != nil || config.Linux.GetCgroupDriver() != api.CgroupDriver_CGROUPFS {
		t.Errorf("config: %v, %v", config, err)
	}
	if _, err := shared.rt.UpdateRuntimeConfig(ctx, &api.UpdateRuntimeConfigRequest{RuntimeConfig: &api.RuntimeConfig{NetworkConfig: &api.NetworkConfig{PodCidr: "10.1.0.0/24"}}}); err != nil {
		t.Errorf("update: %v", err)
	}
}
