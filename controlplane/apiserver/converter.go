package apiserver

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// converter makes the library's type converter when it is first needed.
type converter struct {
	get func() managedfields.TypeConverter
}

func newConverter(s *runtime.Scheme) managedfields.TypeConverter {
	return converter{sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(s) })}
}

func (c converter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	return c.get().ObjectToTyped(o, opts...)
}

func (c converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return c.get().TypedToObject(v)
}
