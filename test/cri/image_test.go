package cri

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// site is a registry that exists as a mirror alone.
const site = "registry.test/"

func pull(t *testing.T, name string) string {
	t.Helper()
	reply, err := shared.images.PullImage(testContext(t), &api.PullImageRequest{Image: &api.ImageSpec{Image: name}})
	if err != nil {
		t.Fatalf("pull %s: %v", name, err)
	}
	if reply.ImageRef == "" {
		t.Fatalf("pull %s: no reference", name)
	}
	t.Cleanup(func() { removeImage(t, name) })
	return reply.ImageRef
}

func removeImage(t *testing.T, name string) {
	t.Helper()
	if _, err := shared.images.RemoveImage(context.Background(), &api.RemoveImageRequest{Image: &api.ImageSpec{Image: name}}); err != nil {
		t.Errorf("remove %s: %v", name, err)
	}
}

func imageStatus(t *testing.T, name string) *api.Image {
	t.Helper()
	reply, err := shared.images.ImageStatus(testContext(t), &api.ImageStatusRequest{Image: &api.ImageSpec{Image: name}})
	if err != nil {
		t.Fatalf("status of %s: %v", name, err)
	}
	return reply.Image
}

func listed(t *testing.T, name string) []*api.Image {
	t.Helper()
	if shared.kind == "containerd" { // it ignores the filter
		if img := imageStatus(t, name); img != nil {
			return []*api.Image{img}
		}
		return nil
	}
	reply, err := shared.images.ListImages(testContext(t), &api.ListImagesRequest{Filter: &api.ImageFilter{Image: &api.ImageSpec{Image: name}}})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Images
}

// Pulled by tag, by nothing and by digest, an image is found by every name it has.
func TestImageReferences(t *testing.T) {
	r := startRegistry(t)
	layer, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	tagged := r.add("app:v1", map[string]any{"Labels": map[string]string{"which": "tagged"}}, layer)
	r.add("plain:latest", map[string]any{"Labels": map[string]string{"which": "plain"}}, layer)
	digest := r.add("digested:unused", map[string]any{"Labels": map[string]string{"which": "digested"}}, layer)
	for name, test := range map[string]struct {
		name    string
		tags    []string
		digests []string
		names   []string
	}{
		"tag":    {site + "app:v1", []string{site + "app:v1"}, []string{site + "app@" + tagged}, []string{site + "app@" + tagged}},
		"no tag": {site + "plain", []string{site + "plain:latest"}, nil, []string{site + "plain:latest"}},
		"digest": {site + "digested@" + digest, nil, []string{site + "digested@" + digest}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ref := pull(t, test.name)
			img := imageStatus(t, test.name)
			if img == nil {
				t.Fatal("no status after the pull")
			}
			if img.Id != ref || img.Size == 0 || len(img.RepoDigests) == 0 {
				t.Errorf("pull answered %s, the image is %v", ref, img)
			}
			if !slices.Equal(img.RepoTags, test.tags) || test.digests != nil && !slices.Equal(img.RepoDigests, test.digests) {
				t.Errorf("tags %q, digests %q", img.RepoTags, img.RepoDigests)
			}
			for _, other := range append(test.names, test.name, img.Id, img.RepoDigests[0]) {
				if found := imageStatus(t, other); found.GetId() != img.Id {
					t.Errorf("%s is %v", other, found)
				}
				if found := listed(t, other); len(found) != 1 || found[0].Id != img.Id {
					t.Errorf("listed by %s: %v", other, found)
				}
			}
			if again := pull(t, test.name); again != ref {
				t.Errorf("a second pull answers %s, the first %s", again, ref)
			}
			removeImage(t, test.name)
			if img := imageStatus(t, test.name); img != nil {
				t.Errorf("after its removal: %v", img)
			}
			removeImage(t, test.name)
		})
	}
}

// An image with three tags is one image; removing one name removes it with all.
func TestImageManyTags(t *testing.T) {
	r := startRegistry(t)
	layer, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{site + "many:1", site + "many:2", site + "many:3"}
	for _, name := range names {
		r.add(name[len(site):], map[string]any{"Labels": map[string]string{"which": "many"}}, layer)
		pull(t, name)
	}
	img := imageStatus(t, names[0])
	slices.Sort(img.RepoTags)
	if !slices.Equal(img.RepoTags, names) {
		t.Errorf("tags %q", img.RepoTags)
	}
	removeImage(t, names[1])
	for _, name := range names {
		if found := imageStatus(t, name); found != nil {
			t.Errorf("%s is still there: %v", name, found)
		}
	}
	if found := listed(t, img.Id); len(found) != 0 {
		t.Errorf("listed: %v", found)
	}
	// Several removals at once are one.
	pull(t, names[0])
	var wait sync.WaitGroup
	for range 5 {
		wait.Go(func() { removeImage(t, names[0]) })
	}
	wait.Wait()
}

func TestImageUser(t *testing.T) {
	r := startRegistry(t)
	layer, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]struct {
		uid  *api.Int64Value
		name string
		id   string
	}{
		"1002":        {&api.Int64Value{Value: 1002}, "", "uid=1002 gid=0(root) groups=0(root)\n"},
		"1002:7":      {&api.Int64Value{Value: 1002}, "", "uid=1002 gid=7 groups=7\n"},
		"worker":      {nil, "worker", "uid=1000(worker) gid=1000(worker) groups=1000(worker),50000(crew)\n"},
		"worker:crew": {nil, "worker", "uid=1000(worker) gid=50000(crew) groups=50000(crew)\n"},
		"0":           {&api.Int64Value{}, "", "uid=0(root) gid=0(root) groups=0(root)\n"},
	} {
		t.Run(user, func(t *testing.T) {
			r.add("user:latest", map[string]any{"User": user, "Env": []string{"PATH=/bin"}}, layer)
			pull(t, site+"user")
			img := imageStatus(t, site+"user")
			if img.Uid.GetValue() != want.uid.GetValue() || (img.Uid == nil) != (want.uid == nil) || img.Username != want.name {
				t.Errorf("uid %v, username %q", img.Uid, img.Username)
			}
			p := newPod(t)
			c := p.run("id", func(c *api.ContainerConfig) { c.Image = &api.ImageSpec{Image: img.Id} })
			c.wait()
			if got := c.logs(); got != want.id {
				t.Errorf("it runs as %q, want %q", got, want.id)
			}
			if st := c.status(); st.ImageId != "" && st.ImageId != img.Id {
				t.Errorf("the container's image is %q", st.ImageId)
			}
		})
	}
}

// What the image says and the container doesn't: entrypoint, command, directory, environment, stop signal.
func TestImageDefaults(t *testing.T) {
	r := startRegistry(t)
	layer, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	r.add("says:much", map[string]any{
		"Entrypoint": []string{"sh", "-c"}, "Cmd": []string{"pwd; echo $A $B; trap 'echo usr1; exit 4' USR1; echo up; while :; do sleep 0.05; done"},
		"WorkingDir": "/made/by/it", "Env": []string{"PATH=/bin", "A=image", "B=image"}, "StopSignal": "SIGUSR1",
	}, layer)
	r.add("says:nothing", map[string]any{}, layer)
	pull(t, site+"says:much")
	pull(t, site+"says:nothing")
	p := newPod(t)
	config := containerConfig()
	config.Image, config.Envs = &api.ImageSpec{Image: site + "says:much"}, []*api.KeyValue{{Key: "B", Value: []byte("pod")}}
	c := p.start(config)
	eventually(t, "the container to be up", func() bool { return c.logs() == "/made/by/it\nimage pod\nup\n" })
	if _, err := shared.rt.StopContainer(testContext(t), &api.StopContainerRequest{ContainerId: c.id, Timeout: seconds(10)}); err != nil {
		t.Fatal(err)
	}
	if st := c.status(); st.ExitCode != 4 {
		t.Errorf("its own stop signal wasn't sent: exit code %d", st.ExitCode)
	}
	config = containerConfig()
	config.Image, config.Args = &api.ImageSpec{Image: site + "says:much"}, []string{"echo only arguments"}
	c = p.start(config)
	c.wait()
	if got := c.logs(); got != "only arguments\n" {
		t.Errorf("arguments without a command: %q", got)
	}
	config = containerConfig()
	config.Image = &api.ImageSpec{Image: site + "says:nothing"}
	if _, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}); err == nil {
		t.Error("a container with nothing to run was created")
	}
}

func TestPullFailures(t *testing.T) {
	r := startRegistry(t)
	layer, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.images.PullImage(testContext(t), &api.PullImageRequest{Image: &api.ImageSpec{Image: site + "no/such:thing"}})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an image that isn't there: %v", err)
	}
	for _, name := range []string{"", "UPPER/case", "a b"} {
		if _, err := shared.images.PullImage(testContext(t), &api.PullImageRequest{Image: &api.ImageSpec{Image: name}}); err == nil {
			t.Errorf("%q was pulled", name)
		}
	}
	r.add("slow:latest", map[string]any{"Labels": map[string]string{"which": "slow"}}, append(layer, make([]byte, 512)...))
	r.stall["slow"] = true
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := shared.images.PullImage(ctx, &api.PullImageRequest{Image: &api.ImageSpec{Image: site + "slow"}}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a pull beyond its deadline: %v", err)
	}
	if time.Since(begin) > slow(5*time.Second) {
		t.Errorf("it took %v to give up", time.Since(begin))
	}
	r.mu.Lock()
	r.stall["slow"] = false
	r.mu.Unlock()
	pull(t, site+"slow")
}

func TestImageFsInfo(t *testing.T) {
	reply, err := shared.images.ImageFsInfo(testContext(t), &api.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, all := range map[string][]*api.FilesystemUsage{"images": reply.ImageFilesystems, "containers": reply.ContainerFilesystems} {
		if kind == "containers" && shared.kind == "containerd" {
			continue // it says nothing of them
		}
		if len(all) == 0 || all[0].FsId.GetMountpoint() == "" || all[0].Timestamp == 0 || all[0].UsedBytes == nil {
			t.Errorf("%s: %v", kind, all)
		}
	}
	if used := reply.ImageFilesystems[0].UsedBytes.GetValue(); shared.kind == "mote" && used < 1<<20 {
		t.Errorf("%d bytes of images", used) // containerd measures every ten seconds
	}
	images, err := shared.images.ListImages(testContext(t), &api.ListImagesRequest{})
	if err != nil || !slices.ContainsFunc(images.Images, func(img *api.Image) bool { return slices.Contains(img.RepoTags, testImage) }) {
		t.Errorf("%s isn't in the list: %v", testImage, err)
	}
}
