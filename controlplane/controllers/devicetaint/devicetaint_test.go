package devicetaint

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

const driver = "example.com"

func pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	p.Spec.NodeName = "n1"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &name}}
	return p
}

func claim(p *corev1.Pod, device string, tolerations ...resourcev1.DeviceToleration) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: p.Name, UID: types.UID("claim-" + p.Name)}}
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: p.Name, UID: p.UID}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
		Results: []resourcev1.DeviceRequestAllocationResult{{Driver: driver, Pool: "n1", Device: device, Tolerations: tolerations}},
	}}
	return c
}

func slice(generation int64, device string, taints ...resourcev1.DeviceTaint) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, Pool: resourcev1.ResourcePool{Name: "n1", Generation: generation}, Devices: []resourcev1.Device{{Name: device, Taints: taints}},
	}}
}

func sick(effect resourcev1.DeviceTaintEffect, at time.Time) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: "sick", Effect: effect, TimeAdded: &metav1.Time{Time: at}}
}

func rule(t resourcev1.DeviceTaint, s *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "rule"}, Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: s, Taint: t}}
}

func TestEvictAt(t *testing.T) {
	epoch := time.Unix(10_000, 0)
	always := resourcev1.DeviceToleration{Key: "sick", Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute}
	minute, hour := always, always
	minute.TolerationSeconds, hour.TolerationSeconds = new(int64(60)), new(int64(3600))
	for name, c := range map[string]struct {
		tolerations []resourcev1.DeviceToleration
		slices      []*resourcev1.ResourceSlice
		rules       []*resourcev1.DeviceTaintRule
		change      func(*corev1.Pod, *resourcev1.ResourceClaim)
		want        time.Duration // -1: it stays
	}{
		"no taint":               {nil, []*resourcev1.ResourceSlice{slice(1, "d")}, nil, nil, -1},
		"not for those that run": {nil, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoSchedule", epoch))}, nil, nil, -1},
		"tainted by the driver":  {nil, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch))}, nil, nil, 0},
		"another device":         {nil, []*resourcev1.ResourceSlice{slice(1, "e", sick("NoExecute", epoch))}, nil, nil, -1},
		"an older picture":       {nil, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch)), slice(2, "d")}, nil, nil, -1},
		"tolerated for good":     {[]resourcev1.DeviceToleration{always, minute}, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch))}, nil, nil, -1},
		"tolerated for a while":  {[]resourcev1.DeviceToleration{hour, minute}, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch))}, nil, nil, time.Minute},
		"rule about all":         {nil, nil, []*resourcev1.DeviceTaintRule{rule(sick("NoExecute", epoch), &resourcev1.DeviceTaintSelector{})}, nil, 0},
		"rule about none":        {nil, nil, []*resourcev1.DeviceTaintRule{rule(sick("NoExecute", epoch), nil)}, nil, -1},
		"rule about another":     {nil, nil, []*resourcev1.DeviceTaintRule{rule(sick("NoExecute", epoch), &resourcev1.DeviceTaintSelector{Device: new("e")})}, nil, -1},
		"rule without effect":    {nil, nil, []*resourcev1.DeviceTaintRule{rule(sick("None", epoch), &resourcev1.DeviceTaintSelector{})}, nil, -1},
		"on no node yet":         {nil, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch))}, nil, func(p *corev1.Pod, _ *resourcev1.ResourceClaim) { p.Spec.NodeName = "" }, -1},
		"somebody else has the claim": {nil, []*resourcev1.ResourceSlice{slice(1, "d", sick("NoExecute", epoch))}, nil, func(_ *corev1.Pod, c *resourcev1.ResourceClaim) {
			c.Status.ReservedFor[0].UID = "other"
		}, -1},
	} {
		p := pod("p")
		cl := claim(p, "d", c.tolerations...)
		if c.change != nil {
			c.change(p, cl)
		}
		got := evictAt(p, cluster{slices: c.slices, rules: c.rules, claim: func(_, _ string) *resourcev1.ResourceClaim { return cl }})
		switch {
		case got == nil && c.want >= 0, got != nil && (c.want < 0 || !got.at.Equal(epoch.Add(c.want))):
			t.Errorf("%s: %+v, want %v", name, got, c.want)
		case got != nil && len(c.rules) > 0 && !got.rules["rule"]:
			t.Errorf("%s: its rule isn't named", name)
		}
	}
}

func TestConditionOfARule(t *testing.T) {
	for want, c := range map[string]struct {
		effect resourcev1.DeviceTaintEffect
		tally
	}{
		"False NotStarted ": {"NoExecute", tally{}},
		"True PodsPendingEviction 2 pods need to be evicted in 1 namespace.": {"NoExecute", tally{pods: 2, namespaces: 1}},
		"False Completed 1 pod evicted since starting the controller.":       {"NoExecute", tally{evicted: 1}},
		"False OtherEffect Eviction only happens for the NoExecute effect.":  {"NoSchedule", tally{}},
		"False NoEffect 3 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. " +
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.": {"None", tally{published: 3, allocated: 1, pods: 1, namespaces: 1}},
	} {
		got := condition(rule(sick(c.effect, time.Now()), nil), c.tally)
		if text := string(got.Status) + " " + got.Reason + " " + got.Message; text != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
}

// A device falls ill: its pod goes, with a condition and an event; one that tolerates it stays.
func TestPodsOfTaintedDevicesGo(t *testing.T) {
	going, staying := pod("going"), pod("staying")
	forever := resourcev1.DeviceToleration{Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute}
	r := rule(sick("NoExecute", time.Now()), &resourcev1.DeviceTaintSelector{Driver: new(driver)})
	client := fake.NewClientset(going, staying, claim(going, "a"), claim(staying, "b", forever), slice(1, "a"), r)
	f := informers.NewSharedInformerFactory(client, 0)
	events := record.NewFakeRecorder(10)
	c, err := New(Config{Client: client, Informers: f, Recorder: events})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	f.Start(ctx.Done())
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := client.CoreV1().Pods("ns").Get(ctx, "going", metav1.GetOptions{})
		got, _ := client.ResourceV1().DeviceTaintRules().Get(ctx, "r", metav1.GetOptions{})
		if apierrors.IsNotFound(err) && len(got.Status.Conditions) == 1 && got.Status.Conditions[0].Reason == "Completed" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pod: %v, rule: %+v", err, got.Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := client.CoreV1().Pods("ns").Get(ctx, "staying", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if e := <-events.Events; !strings.Contains(e, "DeviceTaintManagerEviction Marking for deletion") {
		t.Error(e)
	}
	marked := false
	for _, a := range client.Actions() {
		if p, ok := a.(interface{ GetPatch() []byte }); ok && strings.Contains(string(p.GetPatch()), "DeletionByDeviceTaintManager") {
			marked = true
		}
	}
	if !marked {
		t.Error("no DisruptionTarget condition")
	}
}
