package validation

import (
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celenvironment "k8s.io/apiserver/pkg/cel/environment"
)

// compiler is made when the first expression comes: its environments cost megabytes that most clusters never need.
var compiler = sync.OnceValue(func() admissioncel.Compiler {
	return admissioncel.NewCompiler(celenvironment.MustBaseEnvSet(celenvironment.DefaultCompatibilityVersion()))
})

// condition is a match condition as the compiler wants it.
type condition struct{ expression string }

func (c condition) GetExpression() string  { return c.expression }
func (condition) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }

// compiles reports whether an expression is CEL that the admission chain can run, by its own compiler.
func compiles(expression string) error {
	r := compiler().CompileCELExpression(condition{expression}, admissioncel.OptionalVariableDeclarations{HasParams: false, HasAuthorizer: true}, celenvironment.NewExpressions)
	if r.Error != nil {
		return r.Error
	}
	return nil
}

func admissionPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	l := &list{}
	if c := p.Spec.MatchConstraints; c == nil {
		l.required(specPath.Child("matchConstraints"), "")
	} else {
		if len(c.ResourceRules) == 0 {
			l.required(specPath.Child("matchConstraints", "resourceRules"), "")
		}
		for i, r := range c.ResourceRules {
			operations(l, r.Operations, r.APIGroups, r.APIVersions, r.Resources, specPath.Child("matchConstraints", "resourceRules").Index(i))
		}
	}
	if len(p.Spec.Validations)+len(p.Spec.AuditAnnotations) == 0 {
		l.required(specPath.Child("validations"), "validations or auditAnnotations must be non-empty; neither was specified")
	}
	for i, v := range p.Spec.Validations {
		if strings.TrimSpace(v.Expression) == "" {
			l.required(specPath.Child("validations").Index(i).Child("expression"), "expression is not specified")
		}
	}
	if k := p.Spec.ParamKind; k != nil {
		for name, v := range map[string]string{"apiVersion": k.APIVersion, "kind": k.Kind} {
			if v == "" {
				l.required(specPath.Child("paramKind", name), "")
			}
		}
	}
	return l.ErrorList
}

func admissionPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	l := &list{}
	if b.Spec.PolicyName == "" {
		l.required(specPath.Child("policyName"), "")
	}
	if len(b.Spec.ValidationActions) == 0 {
		l.required(specPath.Child("validationActions"), "at least one validation action is required")
	}
	for i, a := range b.Spec.ValidationActions {
		oneOf(l, specPath.Child("validationActions").Index(i), a, admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)
	}
	return l.ErrorList
}
