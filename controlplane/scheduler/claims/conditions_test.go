package claims

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPrepared(t *testing.T) {
	for name, c := range map[string]struct {
		have  map[string]metav1.ConditionStatus // nil: the driver hasn't said anything
		ready bool
		fails string
	}{
		"nothing said":   {nil, false, ""},
		"not yet":        {map[string]metav1.ConditionStatus{"attached": metav1.ConditionFalse}, false, ""},
		"ready":          {map[string]metav1.ConditionStatus{"attached": metav1.ConditionTrue}, true, ""},
		"failed":         {map[string]metav1.ConditionStatus{"attached": metav1.ConditionTrue, "broken": metav1.ConditionTrue}, false, "device binding failed"},
		"not failed":     {map[string]metav1.ConditionStatus{"attached": metav1.ConditionTrue, "broken": metav1.ConditionFalse}, true, ""},
		"something else": {map[string]metav1.ConditionStatus{"other": metav1.ConditionTrue}, false, ""},
	} {
		cl := claim("c", "")
		cl.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Driver: driver, Pool: "a", Device: "plain"},
			{Driver: driver, Pool: "a", Device: "one", BindingConditions: []string{"attached"}, BindingFailureConditions: []string{"broken"}},
		}}}
		if c.have != nil {
			d := resourcev1.AllocatedDeviceStatus{Driver: driver, Pool: "a", Device: "one"}
			for kind, status := range c.have {
				d.Conditions = append(d.Conditions, metav1.Condition{Type: kind, Status: status})
			}
			cl.Status.Devices = append(cl.Status.Devices, d)
		}
		ready, err := prepared(cl)
		if ready != c.ready || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %t, %v", name, ready, err)
		}
	}
}

// A pod whose device has to be attached first waits for its driver; when the driver fails, the claim is free again.
func TestDevicesAreMadeReadyFirst(t *testing.T) {
	s := slice("a", "one")
	s.Spec.Devices[0].BindsToNode = new(true)
	s.Spec.Devices[0].BindingConditions = []string{"attached"}
	s.Spec.Devices[0].BindingFailureConditions = []string{"broken"}
	c, _ := newClaims(t, s, claim("first", ""))
	ctx := context.Background()
	pc, why := c.For(pod("p", "first"))
	if why != "" || pc.Fits(node("a")) != "" {
		t.Fatal(why)
	}
	pc.Reserve("a")
	if err := c.Bind(ctx, pc, "a"); err != nil {
		t.Fatal(err)
	}
	if !c.Pending(pc, "a") {
		t.Fatal("nothing to wait for")
	}
	end := make(chan error, 1)
	go func() { end <- c.Await(ctx, pc, "a") }()
	select {
	case err := <-end:
		t.Fatal("didn't wait:", err)
	case <-time.After(200 * time.Millisecond):
	}
	say := func(condition string) {
		t.Helper()
		got, err := c.client.ResourceV1().ResourceClaims("ns").Get(ctx, "first", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Status.Allocation == nil || got.Status.Allocation.AllocationTimestamp == nil {
			t.Fatalf("%+v", got.Status)
		}
		got = got.DeepCopy()
		got.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: driver, Pool: "a", Device: "one", Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue}}}}
		if _, err := c.client.ResourceV1().ResourceClaims("ns").UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	say("attached")
	if err := <-end; err != nil {
		t.Fatal(err)
	}
	say("broken")
	deadline := time.Now().Add(20 * time.Second)
	for err := c.Await(ctx, pc, "a"); !errors.Is(err, errBindingFailed); err = c.Await(ctx, pc, "a") { // once the cache knows
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.Unreserve(ctx, pc)
	got, err := c.client.ResourceV1().ResourceClaims("ns").Get(ctx, "first", metav1.GetOptions{})
	if err != nil || got.Status.Allocation != nil || len(got.Status.ReservedFor) != 0 || len(got.Status.Devices) != 0 {
		t.Errorf("%+v, %v", got.Status, err)
	}
}
