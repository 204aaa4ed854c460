package scheme

import (
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addOldEviction lets the body of pods/eviction be policy/v1beta1 as well: the version is no longer served, but upstream
// still takes the body, and kubectl up to 1.21 (Debian 12 has 1.20) drains nodes with it.
func addOldEviction(s *runtime.Scheme) error {
	s.AddKnownTypes(policyv1beta1.SchemeGroupVersion, &policyv1beta1.Eviction{})
	if err := s.AddConversionFunc((*policyv1beta1.Eviction)(nil), (*policyv1.Eviction)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*policyv1beta1.Eviction), b.(*policyv1.Eviction)
		out.ObjectMeta, out.DeleteOptions = in.ObjectMeta, in.DeleteOptions
		return nil
	}); err != nil {
		return err
	}
	return s.AddConversionFunc((*policyv1.Eviction)(nil), (*policyv1beta1.Eviction)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*policyv1.Eviction), b.(*policyv1beta1.Eviction)
		out.ObjectMeta, out.DeleteOptions = in.ObjectMeta, in.DeleteOptions
		return nil
	})
}
