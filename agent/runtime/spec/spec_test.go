package spec

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommand(t *testing.T) {
	image := ocispec.ImageConfig{Entrypoint: []string{"/ep"}, Cmd: []string{"arg"}}
	// The table of "Define a Command and Arguments for a Container".
	for _, test := range []struct {
		name          string
		command, args []string
		image         ocispec.ImageConfig
		want          string
	}{
		{"neither", nil, nil, image, "/ep arg"},
		{"command", []string{"/c"}, nil, image, "/c"},
		{"args", nil, []string{"a"}, image, "/ep a"},
		{"both", []string{"/c"}, []string{"a"}, image, "/c a"},
		{"image without entry point", nil, nil, ocispec.ImageConfig{Cmd: []string{"sh"}}, "sh"},
	} {
		got, err := command(&cri.ContainerConfig{Command: test.command, Args: test.args}, test.image)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
	if _, err := command(&cri.ContainerConfig{}, ocispec.ImageConfig{}); !errors.Is(err, ErrNoCommand) {
		t.Errorf("nothing to run: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	in := Input{
		Sandbox: &cri.PodSandboxConfig{Hostname: "pod"}, Image: ocispec.ImageConfig{Env: []string{"A=image", "B=image", "broken"}},
		Container: &cri.ContainerConfig{Tty: true, Envs: []*cri.KeyValue{{Key: "B", Value: []byte("pod")}, {Key: "C", Value: []byte("x=y")}}},
	}
	if got := environment(in); !slices.Equal(got, []string{defaultPath, "HOSTNAME=pod", "TERM=xterm", "A=image", "B=pod", "C=x=y"}) {
		t.Errorf("%q", got)
	}
}

func TestSELinux(t *testing.T) {
	for _, privileged := range []bool{false, true} {
		out, err := Build(Input{
			Sandbox: &cri.PodSandboxConfig{}, Labels: Labels{Process: "u:r:container_t:s0:c1,c2", Mount: "u:o:container_file_t:s0:c1,c2"},
			Container: &cri.ContainerConfig{Command: []string{"c"}, Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{Privileged: privileged}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "u:r:container_t:s0:c1,c2"
		if privileged {
			want = ""
		}
		if out.Process.SelinuxLabel != want || out.Linux.MountLabel != "u:o:container_file_t:s0:c1,c2" {
			t.Errorf("privileged %v: process %q, mounts %q", privileged, out.Process.SelinuxLabel, out.Linux.MountLabel)
		}
	}
}

func TestCapabilities(t *testing.T) {
	host := slices.Clone(known)
	for _, test := range []struct {
		name      string
		add, drop []string
		want      []string
		without   []string
	}{
		{"default", nil, nil, []string{"CAP_CHOWN", "CAP_NET_RAW"}, []string{"CAP_NET_ADMIN"}},
		{"add", []string{"NET_ADMIN"}, nil, []string{"CAP_NET_ADMIN", "CAP_CHOWN"}, nil},
		{"drop", nil, []string{"cap_chown"}, nil, []string{"CAP_CHOWN"}},
		{"drop all, add", []string{"SYS_TIME"}, []string{"ALL"}, []string{"CAP_SYS_TIME"}, []string{"CAP_CHOWN"}},
		{"add all, drop", []string{"ALL"}, []string{"SYS_ADMIN"}, []string{"CAP_BPF"}, []string{"CAP_SYS_ADMIN"}},
	} {
		got, err := capabilities(&cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: test.add, DropCapabilities: test.drop}}, host)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, name := range test.want {
			if !slices.Contains(got.Effective, name) {
				t.Errorf("%s: no %s", test.name, name)
			}
		}
		for _, name := range test.without {
			if slices.Contains(got.Bounding, name) {
				t.Errorf("%s: has %s", test.name, name)
			}
		}
	}
	if _, err := capabilities(&cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"FLY"}}}, host); err == nil {
		t.Error("an unknown capability was accepted")
	}
	got, err := capabilities(&cri.LinuxContainerSecurityContext{Privileged: true}, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"})
	if err != nil || !slices.Equal(got.Bounding, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}) {
		t.Errorf("privileged gets what the runtime has: %v, %v", got, err)
	}
}

func TestMounts(t *testing.T) {
	in := Input{
		Sandbox: &cri.PodSandboxConfig{}, Container: &cri.ContainerConfig{}, Files: Files{ResolvConf: "/r", Hosts: "/h", Shm: "/s"},
		Mounts: []Mount{
			{Mount: &cri.Mount{ContainerPath: "/a/b"}, Source: "/2"},
			{Mount: &cri.Mount{ContainerPath: "/a", Readonly: true}, Source: "/1"},
			{Mount: &cri.Mount{ContainerPath: "/etc/hosts"}, Source: "/own"},
		},
	}
	got, propagation, err := mounts(in, false)
	if err != nil || propagation != "" {
		t.Fatal(propagation, err)
	}
	at := func(target string) (int, specs.Mount) {
		i := slices.IndexFunc(got, func(m specs.Mount) bool { return m.Destination == target })
		if i < 0 {
			t.Fatalf("no mount at %s", target)
		}
		return i, got[i]
	}
	parent, m := at("/a")
	child, _ := at("/a/b")
	if parent > child || !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "rprivate") {
		t.Errorf("/a is number %d with %v, /a/b number %d", parent, m.Options, child)
	}
	if _, m := at("/etc/hosts"); m.Source != "/own" {
		t.Errorf("the pod's own /etc/hosts lost to %s", m.Source)
	}
	if _, m := at("/sys"); !slices.Contains(m.Options, "ro") {
		t.Errorf("/sys: %v", m.Options)
	}
}

func TestMountRefused(t *testing.T) {
	for name, v := range map[string]Mount{
		"Bidirectional on a private mount":     {Mount: &cri.Mount{Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}, SourceSlave: true},
		"HostToContainer on a private mount":   {Mount: &cri.Mount{Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}},
		"recursive read-only, but not so":      {Mount: &cri.Mount{RecursiveReadOnly: true}},
		"recursive read-only with propagation": {Mount: &cri.Mount{RecursiveReadOnly: true, Readonly: true, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}, SourceShared: true},
		"unknown option":                       {Mount: &cri.Mount{MountOptions: []string{"upperdir=/"}}},
	} {
		if _, _, err := volume(v, ""); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n")
	group := []byte("root:x:0:\nann:x:1001:\nstaff:x:50:ann,bob\n")
	id := func(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }
	for _, test := range []struct {
		name  string
		sc    *cri.LinuxContainerSecurityContext
		image string
		want  User
	}{
		{"nobody says anything", nil, "", User{0, 0, []uint32{0}}},
		{"image by name", nil, "ann", User{1000, 1001, []uint32{1001, 50}}},
		{"image by name and group", nil, "ann:staff", User{1000, 50, []uint32{50}}},
		{"number beats image", &cri.LinuxContainerSecurityContext{RunAsUser: id(7)}, "ann", User{7, 0, []uint32{0}}},
		{"group of the pod", &cri.LinuxContainerSecurityContext{RunAsUser: id(1000), RunAsGroup: id(5)}, "", User{1000, 5, []uint32{5, 50}}},
		{"supplemental", &cri.LinuxContainerSecurityContext{RunAsUsername: "ann", SupplementalGroups: []int64{9, 50}}, "", User{1000, 1001, []uint32{1001, 50, 9}}},
		{"strict", &cri.LinuxContainerSecurityContext{RunAsUsername: "ann", SupplementalGroups: []int64{9}, SupplementalGroupsPolicy: cri.SupplementalGroupsPolicy_Strict}, "", User{1000, 1001, []uint32{1001, 9}}},
	} {
		got, err := ResolveUser(test.sc, test.image, passwd, group)
		if err != nil || got.UID != test.want.UID || got.GID != test.want.GID || !slices.Equal(got.Groups, test.want.Groups) {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
	for name, sc := range map[string]*cri.LinuxContainerSecurityContext{
		"unknown name":       {RunAsUsername: "nobody-here"},
		"group without user": {RunAsGroup: id(1)},
		"group out of range": {SupplementalGroups: []int64{1 << 40}},
	} {
		if _, err := ResolveUser(sc, "", passwd, group); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestResources(t *testing.T) {
	r := &cri.LinuxContainerResources{CpuShares: 2, CpuQuota: -1, MemoryLimitInBytes: 100, CpusetCpus: "0", HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "1GB"}}}
	all := map[string]bool{"cpu": true, "cpuset": true, "memory": true, "hugetlb": true}
	got := Resources(r, Host{Controllers: all, Swap: true, HugePageSizes: []string{"2MB"}})
	if *got.CPU.Shares != 2 || *got.CPU.Quota != -1 || got.CPU.Period != nil || *got.Memory.Limit != 100 || *got.Memory.Swap != 100 || len(got.HugepageLimits) != 1 {
		t.Errorf("%+v %+v", got.CPU, got.Memory)
	}
	if got := Resources(r, Host{Controllers: all}); got.Memory.Swap != nil {
		t.Error("a swap limit without swap accounting")
	}
	if got := Resources(r, Host{}); got.CPU.Shares != nil || got.CPU.Cpus != "" || got.Memory != nil {
		t.Error("limits without controllers")
	}
}

func TestSeccomp(t *testing.T) {
	build := func(sc *cri.LinuxContainerSecurityContext) (*specs.Spec, error) {
		return Build(Input{
			Host:    Host{ReadFile: os.ReadFile, Capabilities: known},
			Sandbox: &cri.PodSandboxConfig{}, Container: &cri.ContainerConfig{Command: []string{"x"}, Linux: &cri.LinuxContainerConfig{SecurityContext: sc}},
		})
	}
	for name, test := range map[string]struct {
		sc   *cri.LinuxContainerSecurityContext
		want bool
	}{
		"unset":                    {nil, false},
		"default":                  {&cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{}}, true},
		"privileged":               {&cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{}, Privileged: true}, false},
		"unconfined":               {&cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}}, false},
		"default in the old field": {&cri.LinuxContainerSecurityContext{SeccompProfilePath: "runtime/default"}, true},
	} {
		got, err := build(test.sc)
		if err != nil || (got.Linux.Seccomp != nil) != test.want {
			t.Errorf("%s: %v, %v", name, got.Linux.Seccomp != nil, err)
		}
	}
	for _, path := range []string{"/no/such/file", "localhost//no/such/file"} {
		if _, err := build(&cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}}); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
}
