package podworker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri/fakecri"
	"github.com/mote-edge/mote/agent/criconfig"
)

func (n *node) eventSeen(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.events, func(e string) bool { return strings.Contains(e, text) })
}

func (n *node) waitingReason(p *corev1.Pod) string {
	st := n.status(p.UID)
	if len(st.ContainerStatuses) == 0 || st.ContainerStatuses[0].State.Waiting == nil {
		return ""
	}
	return st.ContainerStatuses[0].State.Waiting.Reason
}

// An agent that is started again takes over what runs: no restart, no moment of not being ready.
func TestRestartOfTheAgent(t *testing.T) {
	rt := fakecri.New("img:1")
	n := newNode(t, rt)
	pod := testPod("a", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, PeriodSeconds: 3600}
	})
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	calls := rt.Calls()
	known := pod.DeepCopy()
	known.Status = n.status(pod.UID)
	n.mu.Lock()
	n.history = map[types.UID][]corev1.PodStatus{}
	n.mu.Unlock()
	n.restart(scratch(t))
	n.m.Set(Desired{Pod: known})
	n.m.Synced()
	n.until("a status of the new agent", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.history[pod.UID]) > 0 })
	time.Sleep(50 * time.Millisecond)
	n.mu.Lock()
	for _, st := range n.history[pod.UID] {
		if c := st.ContainerStatuses[0]; !c.Ready || c.RestartCount != 0 {
			t.Errorf("after the restart: %+v", c)
		}
		for i, c := range st.Conditions { // PodReadyToStartContainers went to and fro while the volumes were looked at
			if was := known.Status.Conditions[i]; c.Type != was.Type || c.Status != was.Status || !c.LastTransitionTime.Equal(&was.LastTransitionTime) {
				t.Errorf("after the restart condition %+v, was %+v", c, was)
			}
		}
	}
	n.mu.Unlock()
	if got := rt.Calls(); !slices.Equal(got, calls) {
		t.Errorf("the new agent did %v", got[len(calls):])
	}
}

// An agent that ends while it ends a pod leaves the rest to the next one: the grace period goes on where it was, and a
// preStop hook that has run doesn't run again.
func TestRestartWhileEnding(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.OnStart = func(*runtimeapi.ContainerConfig) fakecri.Script { return fakecri.Script{Deaf: true} }
	var hooks atomic.Int32
	rt.OnExec = func(string, []string) (string, int32, error) { hooks.Add(1); return "", 0, nil }
	dir := scratch(t)
	n := newNode(t, rt)
	n.restart(dir)
	pod := testPod("a", func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"pre"}}}}
	})
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	if hosts, err := os.ReadFile(dir + "/hosts/" + string(pod.UID)); err != nil || !strings.Contains(string(hosts), n.status(pod.UID).PodIP) {
		t.Errorf("hosts file: %q, %v", hosts, err)
	}
	gone := deleted(pod, 4)
	gone.Status = n.status(pod.UID)
	begin := time.Now()
	n.m.Set(Desired{Pod: gone})
	n.until("its stop signal", func() bool { return slices.Contains(rt.Calls(), "StopContainer main") })
	time.Sleep(time.Second)
	n.restart(dir)
	n.m.Set(Desired{Pod: gone})
	n.m.Synced()
	n.until("deletion asked for", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.removed[pod.UID] })
	if took := time.Since(begin); took < 3500*time.Millisecond || took > 15*time.Second {
		t.Errorf("it took %v: the grace period is four seconds", took)
	}
	if h := hooks.Load(); h != 1 {
		t.Errorf("the preStop hook ran %d times", h)
	}
	if c := n.status(pod.UID).ContainerStatuses[0].State.Terminated; c == nil || c.ExitCode != 137 {
		t.Errorf("the container's end: %+v", c)
	}
	n.m.Remove(pod.UID)
	n.until("nothing left", func() bool { s, c := rt.Size(); return s+c+len(n.m.Pods()) == 0 })
	for _, of := range []string{"/pods", "/hosts"} {
		if left, err := os.ReadDir(dir + of); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", of, left, err)
		}
	}
}

// What runs and is wanted by nobody goes, once every source has spoken.
func TestOrphans(t *testing.T) {
	rt := fakecri.New("img:1")
	n := newNode(t, rt)
	pod := testPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	n.restart(scratch(t))
	time.Sleep(20 * time.Millisecond)
	if s, c := rt.Size(); s != 1 || c != 1 {
		t.Fatal("taken down before the sources were read")
	}
	n.m.Synced()
	n.until("nothing left", func() bool { s, c := rt.Size(); return s+c+len(n.m.Pods()) == 0 })
}

// An agent that was killed while it removed the last of a pod leaves logs that nothing else tells of: the next one removes
// them, and the links to them. What wanted pods and others have there stays.
func TestLogsLeftBehind(t *testing.T) {
	rt := fakecri.New("img:1")
	dir := scratch(t)
	n := newNode(t, rt)
	n.restart(dir)
	pod := testPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	logs, links := dir+"/log/pods", dir+"/log/containers"
	gone := logs + "/ns_b_0b1c"
	for _, d := range []string{gone + "/c", logs + "/another's", links} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"b_ns_c-1.log": gone + "/c/0.log", "z_ns_c-1.log": "/elsewhere/c/0.log"} {
		if err := os.Symlink(to, links+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	var own []string
	n.until("linked", func() bool { own, _ = filepath.Glob(links + "/a_default_*"); return len(own) == 1 })
	if err := os.Remove(own[0]); err != nil { // as if the agent had been killed before it made it
		t.Fatal(err)
	}
	known := pod.DeepCopy()
	known.Status = n.status(pod.UID)
	n.restart(dir)
	n.m.Set(Desired{Pod: known})
	n.m.Synced()
	n.until("link made again", func() bool { _, err := os.Lstat(own[0]); return err == nil })
	for _, path := range []string{gone, links + "/b_ns_c-1.log"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there still: %v", path, err)
		}
	}
	for _, path := range []string{logs + "/another's", logs + "/" + criconfig.LogDir(pod), links + "/z_ns_c-1.log"} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestWaitingReasons(t *testing.T) {
	pullErr := func(*runtimeapi.PullImageRequest) error { return errors.New("no such host") }
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		script fakecri.Script
		reason string
		event  string
	}{
		"image can't be pulled": {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other:1" }, fakecri.Script{}, "ErrImagePull", "Warning Failed: Error: ErrImagePull"},
		"image never": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "other:1", corev1.PullNever
		}, fakecri.Script{}, "ErrImageNeverPull", "ErrImageNeverPull"},
		"bad image name": {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "A:::" }, fakecri.Script{}, "InvalidImageName", "Error: InvalidImageName"},
		"config map missing": {func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		}, fakecri.Script{}, "CreateContainerConfigError", `Error: configmaps "cm" not found`},
		"start fails": {func(*corev1.Pod) {}, fakecri.Script{StartErr: errors.New("exec: no such file")}, "RunContainerError", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			rt := fakecri.New("img:1")
			rt.OnPull = pullErr
			rt.OnStart = func(*runtimeapi.ContainerConfig) fakecri.Script { return c.script }
			n := newNode(t, rt)
			pod := testPod("a", c.change)
			n.m.Set(Desired{Pod: pod})
			n.until(c.reason, func() bool { return n.waitingReason(pod) == c.reason })
			n.until(c.event, func() bool { return n.eventSeen(c.event) })
		})
	}
}

// A missing ConfigMap that appears lets the container start at once: Retry doesn't wait for the back-off.
func TestRetry(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	n.mountErr = errors.New(`MountVolume.SetUp failed for volume "v" : configmap "cm" not found`)
	pod := testPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("FailedMount", func() bool { return n.eventSeen("Warning FailedMount: MountVolume.SetUp failed") })
	n.mu.Lock()
	n.mountErr = nil
	n.mu.Unlock()
	begin := time.Now()
	n.m.Retry(pod.UID)
	n.until("ready", func() bool { return n.ready(pod.UID) })
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestInitAndSidecarOrder(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.OnStart = func(c *runtimeapi.ContainerConfig) fakecri.Script {
		return fakecri.Script{Exits: strings.HasPrefix(c.Metadata.Name, "i") || c.Metadata.Name == "job", After: 10 * time.Millisecond}
	}
	n := newNode(t, rt)
	pod := testPod("a", regular("job"), inits("i1", "s1+", "i2", "s2+"), policy(corev1.RestartPolicyNever))
	n.m.Set(Desired{Pod: pod})
	n.until("succeeded", func() bool { return n.status(pod.UID).Phase == corev1.PodSucceeded })
	var order []string
	for _, c := range rt.Calls() {
		if verb, name, _ := strings.Cut(c, " "); verb == "StartContainer" || verb == "StopContainer" || verb == "StopPodSandbox" {
			order = append(order, strings.TrimSuffix(strings.TrimSuffix(verb, "Container"), "PodSandbox")+" "+name)
		}
	}
	want := "Start i1, Start s1, Start i2, Start s2, Start job, Stop s2, Stop s1, Stop "
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("order %s\nwant  %s", got, want)
	}
}

// One container's end starts the whole pod over, in place and whatever the policy; the agent may be restarted meanwhile.
func TestRestartAllContainers(t *testing.T) {
	rt := fakecri.New("img:1")
	var mu sync.Mutex
	runs := map[string]int{}
	rt.OnStart = func(c *runtimeapi.ContainerConfig) fakecri.Script {
		mu.Lock()
		defer mu.Unlock()
		runs[c.Metadata.Name]++
		switch {
		case c.Metadata.Name == "init":
			return fakecri.Script{Exits: true}
		case c.Metadata.Name == "x" && runs["x"] == 1:
			return fakecri.Script{Exits: true, Code: 42, After: 100 * time.Millisecond}
		}
		return fakecri.Script{}
	}
	n := newNode(t, rt)
	pod := testPod("a", inits("init", "s+"), regular("x", "y"), policy(corev1.RestartPolicyNever), restartsAll("x"))
	n.m.Set(Desired{Pod: pod})
	n.until("restarted and ready", func() bool {
		st := n.status(pod.UID)
		return n.ready(pod.UID) && st.ContainerStatuses[0].RestartCount == 1
	})
	st := n.status(pod.UID)
	for _, c := range append(st.InitContainerStatuses, st.ContainerStatuses...) {
		last := c.LastTerminationState.Terminated
		switch {
		case c.RestartCount != 1 || last == nil:
			t.Errorf("%s: restarts %d, last %+v", c.Name, c.RestartCount, c.LastTerminationState)
		case c.Name == "x" && last.ExitCode != 42, c.Name != "x" && (last.ExitCode != 137 || last.Reason != "RestartingAllContainers"):
			t.Errorf("%s: ended with %d, %s", c.Name, last.ExitCode, last.Reason)
		}
	}
	n.mu.Lock()
	var seen []string
	for _, st := range n.history[pod.UID] {
		if st.Phase == corev1.PodFailed || st.Phase == corev1.PodSucceeded {
			t.Errorf("phase %s in between", st.Phase)
		}
		for _, c := range st.Conditions {
			if word := string(c.Status) + " " + c.Reason; c.Type == corev1.AllContainersRestarting && (len(seen) == 0 || seen[len(seen)-1] != word) {
				seen = append(seen, word)
			}
		}
	}
	n.mu.Unlock()
	if got := strings.Join(seen, ", "); got != "False , True RestartAllContainersStarted, False " {
		t.Errorf("condition: %s", got)
	}
}

func TestDeadline(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	pod := testPod("a", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(1)) })
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	n.until("failed", func() bool { return n.status(pod.UID).Phase == corev1.PodFailed })
	if st := n.status(pod.UID); st.Reason != "DeadlineExceeded" || st.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("%s %+v", st.Reason, st.ContainerStatuses)
	}
}

func TestHooks(t *testing.T) {
	rt := fakecri.New("img:1")
	var ran []string
	rt.OnExec = func(_ string, cmd []string) (string, int32, error) {
		ran = append(ran, cmd[0])
		if cmd[0] == "bad" {
			return "secret", 1, nil
		}
		return "", 0, nil
	}
	n := newNode(t, rt)
	hook := func(cmd string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}
	}
	good := testPod("good", func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("post"), PreStop: hook("pre")}
	})
	n.m.Set(Desired{Pod: good})
	n.until("ready", func() bool { return n.ready(good.UID) })
	n.mu.Lock()
	for _, st := range n.history[good.UID] { // it counts as running once the hook has ended, and is ready then
		if c := st.ContainerStatuses[0]; c.State.Running != nil && !c.Ready {
			t.Errorf("running, not ready: %+v", c)
		}
	}
	n.mu.Unlock()
	n.m.Set(Desired{Pod: deleted(good, 5)})
	n.until("removed", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.removed[good.UID] })
	if !slices.Equal(ran, []string{"post", "pre"}) {
		t.Errorf("hooks %v", ran)
	}
	bad := testPod("bad", func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("bad")} })
	n.m.Set(Desired{Pod: bad})
	n.until("FailedPostStartHook", func() bool { return n.eventSeen("FailedPostStartHook: PostStartHook failed") })
	n.until("killed", func() bool { return slices.Contains(rt.Calls(), "StopContainer main") })
	if n.eventSeen("secret") {
		t.Error("an event shows what the hook answered")
	}
}

func TestRefused(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	pod := testPod("a", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
	n.m.Set(Desired{Pod: pod})
	n.until("failed", func() bool { return n.status(pod.UID).Phase == corev1.PodFailed })
	if st := n.status(pod.UID); st.Reason != "NodeAffinity" || len(st.ContainerStatuses) != 0 || len(n.rt.Calls()) != 0 {
		t.Errorf("%s %s %v", st.Reason, st.Message, n.rt.Calls())
	}
	if got := n.m.Rejections(); got["NodeAffinity"] != 1 || len(got) != 1 {
		t.Errorf("counted %v", got)
	}
}

// A critical pod takes the place of another one, which is told why.
func TestCriticalPodMakesRoom(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	n.m.mu.Lock()
	n.m.cfg.MaxPods = 1
	n.m.mu.Unlock()
	low, high := testPod("low"), testPod("high", critical)
	n.m.Set(Desired{Pod: low})
	n.until("low is ready", func() bool { return n.ready(low.UID) })
	n.m.Set(Desired{Pod: high})
	n.until("high is ready", func() bool { return n.ready(high.UID) })
	n.until("low has failed", func() bool { return n.status(low.UID).Phase == corev1.PodFailed })
	st := n.status(low.UID)
	disrupted := slices.ContainsFunc(st.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == "TerminationByKubelet"
	})
	if st.Reason != "Preempting" || st.Message != "Preempted in order to admit critical pod" || !disrupted || !n.eventSeen("low/ Warning Preempting: Preempted in order to admit critical pod") {
		t.Errorf("%+v", st)
	}
	if got := n.m.Preemptions(); got["pods"] != 1 {
		t.Errorf("counted %v", got)
	}
	third := testPod("third")
	n.m.Set(Desired{Pod: third})
	n.until("an ordinary one is refused", func() bool { return n.status(third.UID).Reason == "OutOfpods" })
}

func TestAdmitResources(t *testing.T) {
	want := func(cpu string) *corev1.Pod {
		return testPod("x", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		})
	}
	have := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	if v := admitResources(want("1"), []*corev1.Pod{want("1")}, have); v != nil {
		t.Errorf("refused what fits exactly: %v", v)
	}
	v := admitResources(want("1500m"), []*corev1.Pod{want("1")}, have)
	if v == nil || v.Reason != "OutOfcpu" || v.Message != "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000" {
		t.Errorf("%+v", v)
	}
}

func TestPlanResize(t *testing.T) {
	list := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	pod := testPod("a", regular("same", "grows", "restarts", "new"))
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].Resources = list("1")
	}
	pod.Spec.Containers[2].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
	p := planResize(pod, nil, map[string]*corev1.ResourceRequirements{"same": new(list("1000m")), "grows": new(list("500m")), "restarts": new(list("500m"))})
	if !slices.Equal(p.Update, []string{"grows"}) || !slices.Equal(p.Restart, []string{"restarts"}) || p.Pod {
		t.Errorf("%+v", p)
	}
	pod.Spec.Resources = new(list("3"))
	if p := planResize(pod, new(list("3000m")), nil); !p.empty() {
		t.Errorf("nothing changes: %+v", p)
	}
	if p := planResize(pod, &corev1.ResourceRequirements{}, nil); !p.Pod {
		t.Errorf("the pod gets bounds of its own: %+v", p)
	}
	if p := planResize(pod, new(list("2")), nil); !p.Pod {
		t.Errorf("the pod grows: %+v", p)
	}
}

// Regression: a resize that restarts a container counted as done before the container ran again.
func TestResizeByRestart(t *testing.T) {
	rt := fakecri.New("img:1")
	n := newNode(t, rt)
	cpu := func(c string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(c)}}
	}
	pod := testPod("a", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = cpu("1")
		p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
	})
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	bigger := pod.DeepCopy()
	bigger.Spec.Containers[0].Resources, bigger.Generation, bigger.ResourceVersion = cpu("2"), 2, "2"
	n.m.Set(Desired{Pod: bigger})
	n.until("restarted and ready", func() bool {
		return n.status(pod.UID).ContainerStatuses[0].RestartCount == 1 && n.ready(pod.UID)
	})
	n.until("the events", func() bool {
		return n.eventSeen(`Normal ResizeStarted: Pod resize started: {"containers":[{"name":"main","resources":`) && n.eventSeen("Normal ResizeCompleted: Pod resize completed: {")
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	began := false
	for _, st := range n.history[pod.UID] {
		during := slices.ContainsFunc(st.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress })
		c := st.ContainerStatuses[0]
		if began = began || during; began && !during && (c.RestartCount != 1 || c.State.Running == nil || c.Resources.Requests.Cpu().Value() != 2) {
			t.Errorf("the resize counts as done with %+v", c)
		}
	}
	if !began {
		t.Error("no status says that the resize is in progress")
	}
}

// What a container has no limit of its own for, the pod bounds: a resize of the pod reaches it, too, unless the pod uses more.
func TestResizeOfThePodReachesItsContainers(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.Used = 20 << 20
	n := newNode(t, rt)
	bounds := func(memory string) *corev1.ResourceRequirements {
		q := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
		return &corev1.ResourceRequirements{Requests: q, Limits: q}
	}
	pod := testPod("a", func(p *corev1.Pod) { p.Spec.Resources = bounds("35Mi") })
	n.m.Set(Desired{Pod: pod})
	n.until("ready", func() bool { return n.ready(pod.UID) })
	for generation, memory := range []string{"10Mi", "30Mi"} {
		pod = pod.DeepCopy()
		pod.Spec.Resources, pod.Generation, pod.ResourceVersion = bounds(memory), int64(generation+2), memory
		n.m.Set(Desired{Pod: pod})
		if memory == "10Mi" {
			n.until("refused", func() bool {
				return slices.ContainsFunc(n.status(pod.UID).Conditions, func(c corev1.PodCondition) bool {
					return c.Type == corev1.PodResizeInProgress && strings.Contains(c.Message, "attempting to set pod memory limit (10485760) below current usage (20971520)")
				})
			})
		}
	}
	n.until("resized", func() bool { return slices.Contains(rt.Calls(), "UpdateContainerResources main 31457280") })
	n.until("shown", func() bool {
		st := n.status(pod.UID)
		return st.Resources != nil && st.Resources.Limits.Memory().String() == "30Mi" && st.AllocatedResources.Memory().String() == "30Mi"
	})
}

// A manifest that goes and comes back is the same pod: its containers count on.
func TestStaticPodComesBack(t *testing.T) {
	rt := fakecri.New("img:1")
	n := newNode(t, rt)
	mirror := testPod("a", func(p *corev1.Pod) { p.UID = "mirror" })
	d := Desired{Pod: testPod("a"), Static: true, Mirror: mirror}
	n.m.Set(d)
	n.until("ready", func() bool { return n.ready("mirror") })
	n.m.Remove(d.Pod.UID)
	n.m.Set(d)
	n.until("ready again", func() bool {
		return n.ready("mirror") && n.status("mirror").ContainerStatuses[0].RestartCount == 1
	})
	n.m.Remove(d.Pod.UID)
	n.until("nothing left", func() bool { s, c := rt.Size(); return s+c == 0 && !n.m.Has(d.Pod.UID) })
}
