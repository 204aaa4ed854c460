package replicaset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func some(n int, ready bool, since time.Duration) (out []*corev1.Pod) {
	for i := range n {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), Labels: map[string]string{"app": "web"}}}
		p.Spec.NodeName = "n"
		p.Status = workloadtest.ReadyStatus(ready, now.Add(-since))
		out = append(out, p)
	}
	return out
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		want           int32
		have           int
		create, remove int
	}{
		{0, 0, 0, 0}, {3, 0, 3, 0}, {3, 2, 1, 0}, {3, 3, 0, 0}, {2, 5, 0, 3}, {0, 4, 0, 4}, {1000, 0, burst, 0}, {0, 900, 0, burst},
	} {
		pods := some(c.have, true, 0)
		p := decide(c.want, pods, pods, now)
		if p.create != c.create || len(p.remove) != c.remove {
			t.Errorf("want %d, have %d: create %d, remove %d", c.want, c.have, p.create, len(p.remove))
		}
	}
}

func TestNextStatus(t *testing.T) {
	s := &set{obj: webSet(3), replicas: 3, minReady: 10, template: &webSet(3).Spec.Template, countTerminating: true}
	odd := some(1, true, time.Hour)
	odd[0].Labels = map[string]string{"other": "x"}
	active := append(append(append(some(2, true, time.Minute), some(1, true, 4*time.Second)...), some(1, false, 0)...), odd...)
	st, recheck := nextStatus(s, active, some(2, false, 0), nil, now)
	if st.Replicas != 5 || st.FullyLabeledReplicas != 4 || st.ReadyReplicas != 4 || st.AvailableReplicas != 3 || *st.TerminatingReplicas != 2 ||
		st.ObservedGeneration != 1 || recheck != 6*time.Second {
		t.Errorf("%+v, again in %v", st, recheck)
	}
	s.countTerminating = false
	if st, _ := nextStatus(s, nil, some(2, false, 0), nil, now); st.TerminatingReplicas != nil {
		t.Error("a ReplicationController has no such number")
	}
}

func TestFailureCondition(t *testing.T) {
	old := []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Reason: "FailedCreate", Message: "first"}}
	for _, c := range []struct {
		name    string
		have    []appsv1.ReplicaSetCondition
		missing int
		err     error
		want    string
	}{
		{"none", nil, 1, nil, ""},
		{"can't create", nil, 1, errors.New("quota"), "FailedCreate quota"},
		{"can't delete", nil, -1, errors.New("no"), "FailedDelete no"},
		{"the first message stays", old, 1, errors.New("second"), "FailedCreate first"},
		{"over", old, 0, nil, ""},
	} {
		got := ""
		for _, cond := range nextConditions(c.have, c.missing, c.err, now) {
			got = cond.Reason + " " + cond.Message
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if len(old) != 1 {
		t.Error("the cached conditions were changed")
	}
}
