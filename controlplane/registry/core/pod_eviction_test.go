package core

import (
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSpendOne(t *testing.T) {
	budget := func(generation int64, st policyv1.PodDisruptionBudgetStatus) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: generation}, Status: st}
	}
	got, err := spendOne(budget(1, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1}), "p", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := got.Status.DisruptedPods["p"]; !ok || got.Status.DisruptionsAllowed != 0 {
		t.Errorf("%+v", got.Status)
	}
	for _, c := range []struct {
		name    string
		b       *policyv1.PodDisruptionBudget
		is      func(error) bool
		because string
	}{
		{"not seen by the controller yet", budget(2, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1}), apierrors.IsTooManyRequests, "still being processed"},
		{"spent", budget(1, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DesiredHealthy: 2, CurrentHealthy: 2}), apierrors.IsTooManyRequests, "needs 2 healthy pods and has 2 currently"},
		{"failed sync", budget(1, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{
			{Type: policyv1.DisruptionAllowedCondition, Status: "False", Reason: policyv1.SyncFailedReason, Message: "why"},
		}}), apierrors.IsTooManyRequests, "failed sync: why"},
		{"negative", budget(1, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: -1}), apierrors.IsForbidden, "negative"},
	} {
		_, err := spendOne(c.b, "p", time.Now())
		if !c.is(err) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		status := err.(apierrors.APIStatus).Status()
		if len(status.Details.Causes) != 1 || status.Details.Causes[0].Type != policyv1.DisruptionBudgetCause || !strings.Contains(status.Details.Causes[0].Message, c.because) {
			t.Errorf("%s: causes %v", c.name, status.Details.Causes)
		}
	}
}
