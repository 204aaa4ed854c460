package bootstrap

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	defaults "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// flowSchemas makes the library's priority levels and flow schemas where they are missing; changed ones stay changed.
func (b *Bootstrap) flowSchemas(ctx context.Context) error {
	if !b.cfg.Fairness {
		return nil
	}
	levels, schemas := b.cfg.Client.FlowcontrolV1().PriorityLevelConfigurations(), b.cfg.Client.FlowcontrolV1().FlowSchemas()
	var tasks []func(context.Context) error
	for _, l := range slices.Concat(defaults.MandatoryPriorityLevelConfigurations, defaults.SuggestedPriorityLevelConfigurations) {
		tasks = append(tasks, func(ctx context.Context) error {
			if _, err := levels.Get(ctx, l.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return err
			}
			_, err := levels.Create(ctx, l, metav1.CreateOptions{})
			return exists(err)
		})
	}
	for _, f := range slices.Concat(defaults.MandatoryFlowSchemas, defaults.SuggestedFlowSchemas) {
		tasks = append(tasks, func(ctx context.Context) error {
			if _, err := schemas.Get(ctx, f.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return err
			}
			_, err := schemas.Create(ctx, f, metav1.CreateOptions{})
			return exists(err)
		})
	}
	return all(ctx, tasks)
}
