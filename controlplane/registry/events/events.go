// Package events holds the events, served as core v1 and as events.k8s.io/v1
// from one storage. They are kept for a while only, and without a watch cache:
// many are written, few are read.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package events

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds the storage of events.
func Storages(c *resource.Config) (resource.Storages, error) {
	d := events
	ttl := c.EventTTL
	if ttl <= 0 {
		ttl = time.Hour
	}
	d.Tune = func(s *genericregistry.Store) {
		s.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return uint64(ttl.Seconds()), nil }
	}
	to := resource.Storages{}
	return to, d.Add(c, to)
}

var events = resource.Descriptor[*corev1.Event]{
	GV: corev1.SchemeGroupVersion, Plural: "events", Singular: "event", ShortNames: []string{"ev"},
	New:               func() *corev1.Event { return &corev1.Event{} },
	NewList:           func() runtime.Object { return &corev1.EventList{} },
	CreateOnUpdate:    true,
	GarbageCollection: rest.Unsupported,
	Fields: func(e *corev1.Event) fields.Set {
		source := e.Source.Component
		if source == "" {
			source = e.ReportingController
		}
		o := e.InvolvedObject
		return fields.Set{
			"involvedObject.kind": o.Kind, "involvedObject.namespace": o.Namespace, "involvedObject.name": o.Name,
			"involvedObject.uid": string(o.UID), "involvedObject.apiVersion": o.APIVersion,
			"involvedObject.resourceVersion": o.ResourceVersion, "involvedObject.fieldPath": o.FieldPath,
			"reason": e.Reason, "reportingComponent": e.ReportingController, "source": source, "type": e.Type,
		}
	},
	Columns: []resource.Column[*corev1.Event]{
		{Name: "Last Seen", Value: func(e *corev1.Event) any {
			switch {
			case e.Series != nil:
				return sinceMicro(e.Series.LastObservedTime)
			case !e.LastTimestamp.IsZero():
				return resource.Since(e.LastTimestamp)
			}
			return firstSeen(e)
		}},
		{Name: "Type", Value: func(e *corev1.Event) any { return e.Type }},
		{Name: "Reason", Value: func(e *corev1.Event) any { return e.Reason }},
		{Name: "Object", Value: func(e *corev1.Event) any {
			kind := strings.ToLower(e.InvolvedObject.Kind)
			if e.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + e.InvolvedObject.Name
		}},
		{Name: "Subobject", Wide: true, Value: func(e *corev1.Event) any { return e.InvolvedObject.FieldPath }},
		{Name: "Source", Wide: true, Value: func(e *corev1.Event) any { return source(e) }},
		{Name: "Message", Value: func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }},
		{Name: "First Seen", Wide: true, Value: func(e *corev1.Event) any { return firstSeen(e) }},
		{Name: "Count", Wide: true, Value: func(e *corev1.Event) any {
			switch {
			case e.Series != nil:
				return int64(e.Series.Count)
			case e.Count == 0:
				return int64(1) // events of the new API that happened once have no count
			}
			return int64(e.Count)
		}},
		{Name: "Name", Wide: true, Value: func(e *corev1.Event) any { return e.Name }},
	},
}

func firstSeen(e *corev1.Event) string {
	if e.FirstTimestamp.IsZero() {
		return sinceMicro(e.EventTime)
	}
	return resource.Since(e.FirstTimestamp)
}

func sinceMicro(t metav1.MicroTime) string { return resource.Since(metav1.Time(t)) }

func source(e *corev1.Event) string {
	component, instance := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if instance == "" {
		instance = e.ReportingInstance
	}
	if instance == "" {
		return component
	}
	return component + ", " + instance
}
