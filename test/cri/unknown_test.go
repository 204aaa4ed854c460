package cri

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const nobody = "0000000000000000000000000000000000000000000000000000000000000000"

// api.proto: stopping and removing what isn't there succeeds; all else about it is an error, NotFound for the kubelet.
func TestUnknownIDs(t *testing.T) {
	rt, images := shared.rt, shared.images
	call := func(f func(context.Context) error) func(context.Context) error { return f }
	for name, test := range map[string]struct {
		call func(context.Context) error
		want codes.Code
	}{
		"StopPodSandbox": {call(func(ctx context.Context) error {
			_, err := rt.StopPodSandbox(ctx, &api.StopPodSandboxRequest{PodSandboxId: nobody})
			return err
		}), codes.OK},
		"RemovePodSandbox": {call(func(ctx context.Context) error {
			_, err := rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: nobody})
			return err
		}), codes.OK},
		"StopContainer": {call(func(ctx context.Context) error {
			_, err := rt.StopContainer(ctx, &api.StopContainerRequest{ContainerId: nobody})
			return err
		}), codes.OK},
		"RemoveContainer": {call(func(ctx context.Context) error {
			_, err := rt.RemoveContainer(ctx, &api.RemoveContainerRequest{ContainerId: nobody})
			return err
		}), codes.OK},
		"RemoveImage": {call(func(ctx context.Context) error {
			_, err := images.RemoveImage(ctx, &api.RemoveImageRequest{Image: &api.ImageSpec{Image: nobody}})
			return err
		}), codes.OK},
		"RemoveImage by name": {call(func(ctx context.Context) error {
			_, err := images.RemoveImage(ctx, &api.RemoveImageRequest{Image: &api.ImageSpec{Image: "example.com/no/such:thing"}})
			return err
		}), codes.OK},
		"PodSandboxStatus": {call(func(ctx context.Context) error {
			_, err := rt.PodSandboxStatus(ctx, &api.PodSandboxStatusRequest{PodSandboxId: nobody})
			return err
		}), codes.NotFound},
		"PodSandboxStats": {call(func(ctx context.Context) error {
			_, err := rt.PodSandboxStats(ctx, &api.PodSandboxStatsRequest{PodSandboxId: nobody})
			return err
		}), codes.NotFound},
		"UpdatePodSandboxResources": {call(func(ctx context.Context) error {
			_, err := rt.UpdatePodSandboxResources(ctx, &api.UpdatePodSandboxResourcesRequest{PodSandboxId: nobody})
			return err
		}), codes.NotFound},
		"PortForward": {call(func(ctx context.Context) error {
			_, err := rt.PortForward(ctx, &api.PortForwardRequest{PodSandboxId: nobody, Port: []int32{80}})
			return err
		}), codes.NotFound},
		"CreateContainer": {call(func(ctx context.Context) error {
			_, err := rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: nobody, Config: containerConfig("true"), SandboxConfig: podConfig(t)})
			return err
		}), codes.NotFound},
		"StartContainer": {call(func(ctx context.Context) error {
			_, err := rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: nobody})
			return err
		}), codes.NotFound},
		"ContainerStatus": {call(func(ctx context.Context) error {
			_, err := rt.ContainerStatus(ctx, &api.ContainerStatusRequest{ContainerId: nobody})
			return err
		}), codes.NotFound},
		"ContainerStats": {call(func(ctx context.Context) error {
			_, err := rt.ContainerStats(ctx, &api.ContainerStatsRequest{ContainerId: nobody})
			return err
		}), codes.NotFound},
		"UpdateContainerResources": {call(func(ctx context.Context) error {
			_, err := rt.UpdateContainerResources(ctx, &api.UpdateContainerResourcesRequest{ContainerId: nobody, Linux: &api.LinuxContainerResources{CpuShares: 2}})
			return err
		}), codes.NotFound},
		"ReopenContainerLog": {call(func(ctx context.Context) error {
			_, err := rt.ReopenContainerLog(ctx, &api.ReopenContainerLogRequest{ContainerId: nobody})
			return err
		}), codes.NotFound},
		"ExecSync": {call(func(ctx context.Context) error {
			_, err := rt.ExecSync(ctx, &api.ExecSyncRequest{ContainerId: nobody, Cmd: []string{"true"}})
			return err
		}), codes.NotFound},
		"Exec": {call(func(ctx context.Context) error {
			_, err := rt.Exec(ctx, &api.ExecRequest{ContainerId: nobody, Cmd: []string{"true"}, Stdout: true})
			return err
		}), codes.NotFound},
		"Attach": {call(func(ctx context.Context) error {
			_, err := rt.Attach(ctx, &api.AttachRequest{ContainerId: nobody, Stdout: true})
			return err
		}), codes.NotFound},
		"empty ID": {call(func(ctx context.Context) error {
			_, err := rt.ContainerStatus(ctx, &api.ContainerStatusRequest{})
			return err
		}), codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			got := status.Code(test.call(testContext(t)))
			if name == "empty ID" && got == codes.Unknown && shared.kind != "mote" {
				return
			}
			if got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
	for name, err := range map[string]func() (any, error){
		"ImageStatus": func() (any, error) {
			reply, err := images.ImageStatus(testContext(t), &api.ImageStatusRequest{Image: &api.ImageSpec{Image: "example.com/no/such:thing"}})
			return reply.GetImage() == nil, err
		},
		"ImageStatus by ID": func() (any, error) {
			reply, err := images.ImageStatus(testContext(t), &api.ImageStatusRequest{Image: &api.ImageSpec{Image: nobody}})
			return reply.GetImage() == nil, err
		},
		"ListImages": func() (any, error) {
			if shared.kind == "containerd" {
				return true, nil // it ignores the filter
			}
			reply, err := images.ListImages(testContext(t), &api.ListImagesRequest{Filter: &api.ImageFilter{Image: &api.ImageSpec{Image: "example.com/no/such:thing"}}})
			return len(reply.GetImages()) == 0, err
		},
		"ListContainers": func() (any, error) {
			reply, err := rt.ListContainers(testContext(t), &api.ListContainersRequest{Filter: &api.ContainerFilter{Id: nobody}})
			return len(reply.GetContainers()) == 0, err
		},
		"ListPodSandbox": func() (any, error) {
			reply, err := rt.ListPodSandbox(testContext(t), &api.ListPodSandboxRequest{Filter: &api.PodSandboxFilter{Id: "non-existent-id"}})
			return len(reply.GetItems()) == 0, err
		},
	} {
		if empty, err := err(); err != nil || empty != true {
			t.Errorf("%s of nothing: %v, %v", name, empty, err)
		}
	}
}

// What the runtime leaves out says so in the code that clients look for.
func TestUnimplemented(t *testing.T) {
	if shared.kind != "mote" {
		t.Skip("containerd makes checkpoints when CRIU is there")
	}
	if _, err := shared.rt.CheckpointContainer(testContext(t), &api.CheckpointContainerRequest{ContainerId: nobody}); status.Code(err) != codes.Unimplemented {
		t.Errorf("CheckpointContainer: %v", err)
	}
	if _, err := shared.rt.CheckpointPod(testContext(t), &api.CheckpointPodRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("CheckpointPod: %v", err)
	}
	if _, err := shared.rt.RestorePod(testContext(t), &api.RestorePodRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("RestorePod: %v", err)
	}
}

// A request that can't be served is refused, and the runtime goes on.
func TestInvalidRequests(t *testing.T) {
	ctx := testContext(t)
	if _, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{}); err == nil {
		t.Error("a sandbox without a configuration")
	}
	if _, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: podConfig(t), RuntimeHandler: "no-such-handler"}); err == nil {
		t.Error("an unknown runtime handler")
	}
	for name, set := range map[string]func(*api.PodSandboxConfig){
		"unknown sysctl": func(c *api.PodSandboxConfig) {
			onPodNetwork(c)
			c.Linux.Sysctls = map[string]string{"net.no.such.thing": "1"}
		},
		"a value the kernel refuses": func(c *api.PodSandboxConfig) {
			onPodNetwork(c)
			c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "many"}
		},
	} {
		config := podConfig(t, set)
		if reply, err := shared.rt.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Config: config}); err == nil {
			t.Errorf("%s was accepted", name)
			_, _ = shared.rt.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{PodSandboxId: reply.PodSandboxId})
		}
	}
	p := newPod(t)
	for name, set := range map[string]func(*api.ContainerConfig){
		"no metadata":   func(c *api.ContainerConfig) { c.Metadata = nil },
		"unknown image": func(c *api.ContainerConfig) { c.Image = &api.ImageSpec{Image: "example.com/no/such:thing"} },
		"unknown capability": with(func(s *api.LinuxContainerSecurityContext) {
			s.Capabilities = &api.Capability{AddCapabilities: []string{"FLY"}}
		}),
		"group without user": with(func(s *api.LinuxContainerSecurityContext) { s.RunAsGroup = &api.Int64Value{Value: 5} }),
		"unknown user name":  with(func(s *api.LinuxContainerSecurityContext) { s.RunAsUsername = "no-such-user" }),
		"unknown target": with(func(s *api.LinuxContainerSecurityContext) {
			s.NamespaceOptions.Pid, s.NamespaceOptions.TargetId = api.NamespaceMode_TARGET, nobody
		}),
		"device that isn't there": func(c *api.ContainerConfig) {
			c.Devices = []*api.Device{{HostPath: "/dev/no-such", ContainerPath: "/dev/x", Permissions: "rw"}}
		},
		"image volume to write": func(c *api.ContainerConfig) {
			c.Mounts = []*api.Mount{{ContainerPath: "/x", Image: &api.ImageSpec{Image: testImage}}}
		},
		"image sub path missing": func(c *api.ContainerConfig) {
			c.Mounts = []*api.Mount{{ContainerPath: "/x", Readonly: true, Image: &api.ImageSpec{Image: testImage}, ImageSubPath: "no/such"}}
		},
		"image sub path upwards": func(c *api.ContainerConfig) {
			c.Mounts = []*api.Mount{{ContainerPath: "/x", Readonly: true, Image: &api.ImageSpec{Image: testImage}, ImageSubPath: "../.."}}
		},
		"AppArmor profile": with(func(s *api.LinuxContainerSecurityContext) {
			s.Apparmor = &api.SecurityProfile{ProfileType: api.SecurityProfile_Localhost, LocalhostRef: "no-such"}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "unknown capability" && shared.kind == "containerd" {
				t.Skip("containerd drops it without a word")
			}
			config := containerConfig("true")
			set(config)
			reply, err := shared.rt.CreateContainer(ctx, &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
			if err == nil {
				_, err = shared.rt.StartContainer(ctx, &api.StartContainerRequest{ContainerId: reply.ContainerId})
			}
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}
