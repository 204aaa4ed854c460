package scheme

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// addParameterConversions registers how the query string of a connect
// subresource becomes its option kind.
func addParameterConversions(s *runtime.Scheme) error {
	return firstError(
		fromQuery(s, func(q query, o *corev1.PodLogOptions) {
			o.Container = q.str("container")
			o.Follow = q.boolean("follow")
			o.Previous = q.boolean("previous")
			o.SinceSeconds = q.int64("sinceSeconds")
			o.SinceTime = q.time("sinceTime")
			o.Timestamps = q.boolean("timestamps")
			o.TailLines = q.int64("tailLines")
			o.LimitBytes = q.int64("limitBytes")
			o.InsecureSkipTLSVerifyBackend = q.boolean("insecureSkipTLSVerifyBackend")
			o.Stream = q.optional("stream")
		}),
		fromQuery(s, func(q query, o *corev1.PodExecOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = q.boolean("stdin"), q.boolean("stdout"), q.boolean("stderr"), q.boolean("tty")
			o.Container = q.str("container")
			o.Command = q.values["command"]
		}),
		fromQuery(s, func(q query, o *corev1.PodAttachOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = q.boolean("stdin"), q.boolean("stdout"), q.boolean("stderr"), q.boolean("tty")
			o.Container = q.str("container")
		}),
		fromQuery(s, func(q query, o *corev1.PodPortForwardOptions) { o.Ports = q.int32s("ports") }),
		fromQuery(s, func(q query, o *corev1.PodProxyOptions) { o.Path = q.str("path") }),
		fromQuery(s, func(q query, o *corev1.NodeProxyOptions) { o.Path = q.str("path") }),
		fromQuery(s, func(q query, o *corev1.ServiceProxyOptions) { o.Path = q.str("path") }),
		// DELETE and friends may carry a UID precondition in the query.
		s.AddConversionFunc((*[]string)(nil), (*types.UID)(nil), func(a, b any, _ conversion.Scope) error {
			if in := *a.(*[]string); len(in) > 0 {
				*b.(*types.UID) = types.UID(in[0])
			}
			return nil
		}),
	)
}

func fromQuery[T any](s *runtime.Scheme, set func(query, *T)) error {
	return s.AddConversionFunc((*url.Values)(nil), (*T)(nil), func(a, b any, _ conversion.Scope) error {
		q := query{values: *a.(*url.Values), err: new(error)}
		set(q, b.(*T))
		return *q.err
	})
}

// query reads typed values and keeps the first error.
type query struct {
	values url.Values
	err    *error
}

func (q query) str(name string) string { return q.values.Get(name) }

func (q query) optional(name string) *string {
	if !q.values.Has(name) {
		return nil
	}
	v := q.values.Get(name)
	return &v
}

// boolean follows the API's rule: a parameter that is present without a value,
// or with any value but "false" and "0", is true.
func (q query) boolean(name string) bool {
	if !q.values.Has(name) {
		return false
	}
	switch q.values.Get(name) {
	case "false", "0", "False", "FALSE", "f":
		return false
	}
	return true
}

func (q query) int64(name string) *int64 {
	v := q.values.Get(name)
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	q.fail(name, err)
	return &n
}

func (q query) int32s(name string) []int32 {
	var out []int32
	for _, v := range q.values[name] {
		n, err := strconv.ParseInt(v, 10, 32)
		q.fail(name, err)
		out = append(out, int32(n))
	}
	return out
}

func (q query) time(name string) *metav1.Time {
	v := q.values.Get(name)
	if v == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, v)
	q.fail(name, err)
	return &metav1.Time{Time: t}
}

func (q query) fail(name string, err error) {
	if err != nil && *q.err == nil {
		*q.err = fmt.Errorf("query parameter %q: %w", name, err)
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
