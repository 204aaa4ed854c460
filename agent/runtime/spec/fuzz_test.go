package spec

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func marshal(t testing.TB, m proto.Message) []byte {
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// FuzzBuild: whatever a request and an image say, the answer is an error or a specification that keeps the rules.
func FuzzBuild(f *testing.F) {
	sandbox := &cri.PodSandboxConfig{Hostname: "pod", Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/pods/x", Sysctls: map[string]string{"net.core.somaxconn": "1"}}}
	sc := &cri.LinuxContainerSecurityContext{
		Capabilities:     &cri.Capability{AddCapabilities: []string{"NET_ADMIN", "ALL"}, DropCapabilities: []string{"CHOWN"}, AddAmbientCapabilities: []string{"KILL"}},
		NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, TargetId: "x"}, SelinuxOptions: &cri.SELinuxOption{Level: "s0"},
		RunAsUser: &cri.Int64Value{Value: 5}, RunAsGroup: &cri.Int64Value{Value: 6}, SupplementalGroups: []int64{7}, ReadonlyRootfs: true, NoNewPrivs: true,
		MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}, Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/p"},
		Apparmor: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, SeccompProfilePath: "localhost/x", ApparmorProfile: "runtime/default", //nolint:staticcheck // older kubelets set them
	}
	full := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "i"}, Command: []string{"sh"}, Args: []string{"-c"}, WorkingDir: "/w", Tty: true,
		Envs: []*cri.KeyValue{{Key: "A", Value: []byte("b")}},
		Mounts: []*cri.Mount{
			{ContainerPath: "/v", HostPath: "/h", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"nosuid"}},
			{ContainerPath: "/dev/shm", HostPath: "/h", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL, SelinuxRelabel: true},
			{ContainerPath: "/i", Image: &cri.ImageSpec{Image: "i"}, UidMappings: []*cri.IDMapping{{HostId: 1, Length: 2}}},
		},
		Devices: []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rwm"}},
		Linux: &cri.LinuxContainerConfig{SecurityContext: sc, Resources: &cri.LinuxContainerResources{
			CpuPeriod: 1, CpuQuota: -1, CpuShares: 1 << 62, MemoryLimitInBytes: -5, MemorySwapLimitInBytes: 9, OomScoreAdj: -1 << 62, CpusetCpus: "0-",
			HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 1}}, Unified: map[string]string{"memory.high": "max"},
		}},
	}
	f.Add(marshal(f, sandbox), marshal(f, full), []byte(`{"User":"root:7","Env":["A=1","B"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"x/..","Volumes":{"/vol":{}}}`), []byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`), uint8(0))
	privileged := proto.CloneOf(full)
	privileged.Linux.SecurityContext.Privileged, privileged.Command = true, nil
	f.Add(marshal(f, sandbox), marshal(f, privileged), []byte(`{}`), []byte(`{}`), uint8(255))
	f.Add([]byte{}, marshal(f, &cri.ContainerConfig{Command: []string{""}}), []byte(`null`), []byte(`[]`), uint8(3))
	f.Fuzz(func(t *testing.T, rawSandbox, rawContainer, rawImage, profile []byte, host uint8) {
		sandbox, container := &cri.PodSandboxConfig{}, &cri.ContainerConfig{}
		var img ocispec.ImageConfig
		if proto.Unmarshal(rawSandbox, sandbox) != nil || proto.Unmarshal(rawContainer, container) != nil || json.Unmarshal(rawImage, &img) != nil {
			t.Skip()
		}
		in := Input{
			Host: Host{
				Capabilities: slices.Clone(known)[:len(known)/2], CgroupV2: host&1 != 0, AppArmor: host&2 != 0, AppArmorDefault: host&4 != 0, Swap: host&8 != 0,
				MinOOMScoreAdj: -500, HugePageSizes: []string{"2MB"}, Controllers: map[string]bool{"cpu": true, "cpuset": true, "memory": host&16 != 0, "hugetlb": true},
				ReadFile: func(path string) ([]byte, error) {
					if path == "" {
						return nil, os.ErrNotExist
					}
					return profile, nil
				},
			},
			Sandbox: sandbox, Container: container, Image: img, Rootfs: "/root", Files: Files{ResolvConf: "/r", Hosts: "/h", Shm: "/s", Hostname: "/n"},
		}
		var err error
		if in.CgroupPath, err = ParentPath(sandbox, "0123"); err != nil {
			return
		}
		if !path.IsAbs(in.CgroupPath) || strings.Contains(in.CgroupPath+"/", "/../") || path.Base(in.CgroupPath) != "0123" {
			t.Errorf("cgroup path %q", in.CgroupPath)
		}
		for _, m := range container.Mounts {
			in.Mounts = append(in.Mounts, Mount{Mount: m, Source: path.Join("/", m.HostPath), SourceShared: host&32 != 0, SourceSlave: host&64 != 0})
		}
		out, err := Build(in)
		if err != nil {
			if errors.Is(err, ErrNoCommand) && len(container.Command)+len(container.Args)+len(img.Entrypoint) > 0 {
				t.Errorf("there is something to run: %v", err)
			}
			return
		}
		sc := container.GetLinux().GetSecurityContext()
		if len(out.Process.Args) == 0 || !path.IsAbs(out.Process.Cwd) || out.Root.Readonly != sc.GetReadonlyRootfs() || out.Process.NoNewPrivileges != sc.GetNoNewPrivs() {
			t.Errorf("process %+v, root %+v", out.Process, out.Root)
		}
		for _, set := range [][]string{out.Process.Capabilities.Bounding, out.Process.Capabilities.Effective, out.Process.Capabilities.Permitted, out.Process.Capabilities.Ambient} {
			for _, name := range set {
				if !slices.Contains(in.Host.Capabilities, name) {
					t.Errorf("%s isn't the runtime's to give", name)
				}
			}
		}
		if score := *out.Process.OOMScoreAdj; score < in.Host.MinOOMScoreAdj || score > 1000 {
			t.Errorf("oom_score_adj %d", score)
		}
		for _, m := range out.Mounts {
			if !path.IsAbs(m.Destination) {
				t.Errorf("mount at %q", m.Destination)
			}
			if m.Destination == "/sys" && !sc.GetPrivileged() && m.Type == "sysfs" && !slices.Contains(m.Options, "ro") {
				t.Error("/sys can be written")
			}
		}
		for _, d := range out.Linux.Resources.Devices {
			if d.Allow && d.Type == "" && !sc.GetPrivileged() {
				t.Error("every device is allowed")
			}
		}
		if _, err := json.Marshal(out); err != nil {
			t.Error(err)
		}
	})
}

// FuzzResolveUser: the groups of a strict policy are those that the pod named, and nothing is out of range.
func FuzzResolveUser(f *testing.F) {
	passwd, group := []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n"), []byte("root:x:0:\nstaff:x:50:ann,bob\n")
	for _, sc := range []*cri.LinuxContainerSecurityContext{
		{},
		{RunAsUser: &cri.Int64Value{Value: -1}, RunAsGroup: &cri.Int64Value{Value: 1 << 40}},
		{RunAsUsername: "ann", SupplementalGroups: []int64{5, -5, 1 << 33}, SupplementalGroupsPolicy: cri.SupplementalGroupsPolicy_Strict},
	} {
		f.Add(marshal(f, sc), "ann:staff", passwd, group)
	}
	f.Add(marshal(f, &cri.LinuxContainerSecurityContext{}), "4294967296", []byte("::::::\na"), []byte(":::"))
	f.Fuzz(func(t *testing.T, raw []byte, imageUser string, passwd, group []byte) {
		sc := &cri.LinuxContainerSecurityContext{}
		if proto.Unmarshal(raw, sc) != nil {
			t.Skip()
		}
		got, err := ResolveUser(sc, imageUser, passwd, group)
		if err != nil {
			return
		}
		if want := sc.GetRunAsUser(); want != nil && int64(got.UID) != want.Value {
			t.Errorf("user %d, asked for %d", got.UID, want.Value)
		}
		if want := sc.GetRunAsGroup(); want != nil && int64(got.GID) != want.Value {
			t.Errorf("group %d, asked for %d", got.GID, want.Value)
		}
		if !slices.Contains(got.Groups, got.GID) {
			t.Errorf("groups %v lack %d", got.Groups, got.GID)
		}
		if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Strict {
			for _, gid := range got.Groups {
				if gid != got.GID && !slices.Contains(sc.GetSupplementalGroups(), int64(gid)) {
					t.Errorf("group %d is in the image alone", gid)
				}
			}
		}
	})
}
