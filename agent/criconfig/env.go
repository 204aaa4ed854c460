// Package criconfig turns a pod's specification into the runtime's configuration: environment, command, security,
// resources, names, resolver and hosts file. Everything here is pure but the reading of ConfigMaps and Secrets through
// the caller's interface.
//
// Reads:  the pod, and what its environment refers to.
// Writes: nothing.
package criconfig

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/mote-edge/mote/agent/downward"
)

// Objects reads what environments refer to. Not found is the API's own error.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// EnvInput is all that a container's environment comes from.
type EnvInput struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	Facts     downward.Facts
	// Services are those of the pod's namespace, and default/kubernetes first.
	Services []*corev1.Service
	Objects  Objects
	// File reads a file of one of the pod's emptyDir volumes. ErrNoFile when there is none.
	File func(volume, path string) (string, error)
}

// ErrNoFile says that a volume doesn't have the file that an environment refers to.
var ErrNoFile = errors.New("no such file in the volume")

// EnvVar is one variable of the result.
type EnvVar struct{ Name, Value string }

// Env returns the container's environment: services, then envFrom, then env, the later winning. skipped are keys of
// envFrom sources that can't be variable names.
func Env(ctx context.Context, in EnvInput) (vars []EnvVar, skipped []string, err error) {
	env := &environment{index: map[string]int{}}
	base := ServiceEnv(in.Pod.Namespace, in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks, in.Services)
	for _, from := range in.Container.EnvFrom {
		data, err := envFrom(ctx, in, from)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			name := from.Prefix + k
			if len(validation.IsRelaxedEnvVarName(name)) > 0 {
				skipped = append(skipped, k)
				continue
			}
			env.set(name, data[k])
		}
	}
	lookup := func(name string) (string, bool) {
		if i, ok := env.index[name]; ok {
			return env.vars[i].Value, true
		}
		v, ok := base[name]
		return v, ok
	}
	for _, e := range in.Container.Env {
		value, ok := Expand(e.Value, lookup), true
		if e.ValueFrom != nil {
			if value, ok, err = envValue(ctx, in, e.ValueFrom); err != nil {
				return nil, nil, err
			}
		}
		if ok {
			env.set(e.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if _, ok := env.index[name]; !ok {
			env.set(name, base[name])
		}
	}
	return env.vars, skipped, nil
}

type environment struct {
	vars  []EnvVar
	index map[string]int
}

func (e *environment) set(name, value string) {
	if i, ok := e.index[name]; ok {
		e.vars[i].Value = value
		return
	}
	e.index[name] = len(e.vars)
	e.vars = append(e.vars, EnvVar{name, value})
}

func envFrom(ctx context.Context, in EnvInput, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		m, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return nil, absent(err, from.ConfigMapRef.Optional)
		}
		return m.Data, nil
	case from.SecretRef != nil:
		s, err := in.Objects.Secret(ctx, in.Pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return nil, absent(err, from.SecretRef.Optional)
		}
		data := make(map[string]string, len(s.Data))
		for k, v := range s.Data {
			data[k] = string(v)
		}
		return data, nil
	}
	return nil, nil
}

// absent forgives a missing object that is optional.
func absent(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

func envValue(ctx context.Context, in EnvInput, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = downward.Field(in.Pod, in.Facts, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		c := in.Container
		if name := from.ResourceFieldRef.ContainerName; name != "" && name != c.Name {
			if c, err = downward.Container(in.Pod, name); err != nil {
				return "", false, err
			}
		}
		value, err = downward.Resource(from.ResourceFieldRef, in.Pod, c, in.Facts.Allocatable)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, absent(err, ref.Optional)
		}
		v, ok := m.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := in.Objects.Secret(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			return "", false, absent(err, ref.Optional)
		}
		v, ok := s.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	case from.FileKeyRef != nil:
		return fileValue(in, from.FileKeyRef)
	}
	return "", false, nil
}

// fileValue reads a variable from a file that an init container has left in a volume.
func fileValue(in EnvInput, ref *corev1.FileKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	text, err := in.File(ref.VolumeName, ref.Path)
	switch {
	case errors.Is(err, ErrNoFile) && optional:
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	v, err := EnvFileValue(text, ref.Key)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("couldn't parse env file: %s: %w", ref.Path, err)
	case v == "" && !optional:
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return v, v != "", nil
}

// Expand replaces $(NAME) by its value; $$ is a dollar, and an unknown name stays as it is written.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 { // never closed: not a reference
				b.WriteByte('$')
				continue
			}
			if v, ok := lookup(s[i+2 : i+end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// Lookup makes an environment into what Expand wants.
func Lookup(vars []EnvVar) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, v := range vars {
			if v.Name == name {
				return v.Value, true
			}
		}
		return "", false
	}
}

// ServiceEnv returns the variables of the services (the Docker-link style that Kubernetes defines): those of the pod's
// namespace when links are on, and of default/kubernetes always.
func ServiceEnv(namespace string, links bool, services []*corev1.Service) map[string]string {
	env := map[string]string{}
	add := func(s *corev1.Service) {
		ip := s.Spec.ClusterIP
		if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			return
		}
		name := envName(s.Name)
		env[name+"_SERVICE_HOST"] = ip
		env[name+"_SERVICE_PORT"] = fmt.Sprint(s.Spec.Ports[0].Port)
		for i, p := range s.Spec.Ports {
			if p.Name != "" {
				env[name+"_SERVICE_PORT_"+envName(p.Name)] = fmt.Sprint(p.Port)
			}
			proto := "TCP"
			if p.Protocol != "" {
				proto = string(p.Protocol)
			}
			host := ip
			if strings.Contains(ip, ":") {
				host = "[" + ip + "]"
			}
			url := fmt.Sprintf("%s://%s:%d", strings.ToLower(proto), host, p.Port)
			if i == 0 {
				env[name+"_PORT"] = url
			}
			prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(proto))
			env[prefix], env[prefix+"_PROTO"], env[prefix+"_PORT"], env[prefix+"_ADDR"] = url, strings.ToLower(proto), fmt.Sprint(p.Port), ip
		}
	}
	master := func(s *corev1.Service) bool { return s.Namespace == "default" && s.Name == "kubernetes" }
	for _, s := range services {
		if master(s) {
			add(s)
		}
	}
	for _, s := range services {
		if links && s.Namespace == namespace && !(master(s) && namespace != "default") {
			add(s)
		}
	}
	return env
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
