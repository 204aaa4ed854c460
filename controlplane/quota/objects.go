package quota

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

func createOrUpdate(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

func serviceEvaluator(list generic.ListFuncByNamespace) quota.Evaluator {
	gr := schema.GroupResource{Resource: "services"}
	return &evaluator{
		gr: gr, list: list, scope: generic.MatchesNoScopeFunc, handles: createOrUpdate,
		resources: func(r corev1.ResourceName) bool {
			return r == corev1.ResourceServices || r == corev1.ResourceServicesNodePorts || r == corev1.ResourceServicesLoadBalancers || isCount(r, gr)
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			s, ok := obj.(*corev1.Service)
			if !ok {
				return nil, fmt.Errorf("expected a service, got %T", obj)
			}
			ports := int64(0)
			switch s.Spec.Type {
			case corev1.ServiceTypeNodePort:
				ports = int64(len(s.Spec.Ports))
			case corev1.ServiceTypeLoadBalancer:
				if s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts {
					ports = int64(len(s.Spec.Ports))
					break
				}
				for _, p := range s.Spec.Ports {
					if p.NodePort != 0 {
						ports++
					}
				}
			}
			balancers := int64(0)
			if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
				balancers = 1
			}
			return corev1.ResourceList{
				generic.ObjectCountQuotaResourceNameFor(gr): one(), corev1.ResourceServices: one(),
				corev1.ResourceServicesNodePorts:     *resource.NewQuantity(ports, resource.DecimalSI),
				corev1.ResourceServicesLoadBalancers: *resource.NewQuantity(balancers, resource.DecimalSI),
			}, nil
		},
	}
}

// classInfix stands between a storage class's name and what is limited of it: "<class>.storageclass.storage.k8s.io/…".
const classInfix = ".storageclass.storage.k8s.io/"

func claimEvaluator(list generic.ListFuncByNamespace) quota.Evaluator {
	gr := schema.GroupResource{Resource: "persistentvolumeclaims"}
	return &evaluator{
		gr: gr, list: list, scope: generic.MatchesNoScopeFunc, handles: createOrUpdate,
		resources: func(r corev1.ResourceName) bool {
			return r == corev1.ResourcePersistentVolumeClaims || r == corev1.ResourceRequestsStorage || isCount(r, gr) || strings.Contains(string(r), classInfix)
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			c, ok := obj.(*corev1.PersistentVolumeClaim)
			if !ok {
				return nil, fmt.Errorf("expected a claim, got %T", obj)
			}
			out := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(gr): one(), corev1.ResourcePersistentVolumeClaims: one()}
			class := c.Annotations[corev1.BetaStorageClassAnnotation]
			if class == "" && c.Spec.StorageClassName != nil {
				class = *c.Spec.StorageClassName
			}
			if class != "" {
				out[corev1.ResourceName(class+classInfix+"persistentvolumeclaims")] = one()
			}
			if q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
				out[corev1.ResourceRequestsStorage] = q
				if class != "" {
					out[corev1.ResourceName(class+classInfix+"requests.storage")] = q
				}
			}
			return out, nil
		},
	}
}
