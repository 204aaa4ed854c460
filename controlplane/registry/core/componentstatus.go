package core

import (
	"context"
	"sort"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// componentStatuses is the deprecated list of the control plane's parts. It
// asks each part for its health when it is read.
//

type componentStatuses struct {
	rest.TableConvertor
	parts map[string]func() error
}

func newComponentStatuses(parts map[string]func() error) *componentStatuses {
	return &componentStatuses{TableConvertor: resource.Table(componentColumns), parts: parts}
}

var componentColumns = []resource.Column[*corev1.ComponentStatus]{
	resource.Name[*corev1.ComponentStatus](),
	{Name: "Status", Doc: "Status of the component conditions", Value: func(c *corev1.ComponentStatus) any {
		for _, cond := range c.Conditions {
			if cond.Type == corev1.ComponentHealthy {
				if cond.Status == corev1.ConditionTrue {
					return "Healthy"
				}
				return "Unhealthy"
			}
		}
		return "Unknown"
	}},
	{Name: "Message", Doc: "Message of the component conditions", Value: func(c *corev1.ComponentStatus) any {
		return c.Conditions[0].Message
	}},
	{Name: "Error", Doc: "Error of the component conditions", Value: func(c *corev1.ComponentStatus) any {
		return c.Conditions[0].Error
	}},
}

func (r *componentStatuses) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (r *componentStatuses) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (r *componentStatuses) Destroy()                {}
func (r *componentStatuses) NamespaceScoped() bool   { return false }
func (r *componentStatuses) GetSingularName() string { return "componentstatus" }
func (r *componentStatuses) ShortNames() []string    { return []string{"cs"} }

func (r *componentStatuses) List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for name, check := range r.parts {
		list.Items = append(list.Items, componentStatus(name, check()))
	}
	sort.Slice(list.Items, func(i, j int) bool { return list.Items[i].Name < list.Items[j].Name })
	return list, nil
}

func (r *componentStatuses) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	check, ok := r.parts[name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatuses"), name)
	}
	st := componentStatus(name, check())
	return &st, nil
}

func componentStatus(name string, err error) corev1.ComponentStatus {
	c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err != nil {
		c.Status, c.Message, c.Error = corev1.ConditionFalse, "", err.Error()
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{c}}
}

var (
	_ rest.Lister = (*componentStatuses)(nil)
	_ rest.Getter = (*componentStatuses)(nil)
)
