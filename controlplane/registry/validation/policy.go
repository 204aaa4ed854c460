package validation

import (
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	apiservercel "k8s.io/apiserver/pkg/cel"
	celenvironment "k8s.io/apiserver/pkg/cel/environment"
)

// Bounds that keep an audit event small.
const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 * 1024
)

var (
	boolean   = []*cel.Type{cel.BoolType}
	text      = []*cel.Type{cel.StringType}
	textOrNil = []*cel.Type{cel.StringType, cel.NullType}
	anything  = []*cel.Type{cel.AnyType, cel.DynType}

	celIdentifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	celReserved   = []string{
		"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
		"namespace", "return", "var", "void", "while",
	}
)

// condition is an expression as the compiler wants it.
type condition struct {
	expression string
	types      []*cel.Type
}

func (c condition) GetExpression() string    { return c.expression }
func (c condition) ReturnTypes() []*cel.Type { return c.types }

type variable struct {
	condition
	name string
}

func (v variable) GetName() string { return v.name }

// expressions compiles the expressions of one object with the admission chain's own compiler. It is made when the first
// expression comes: its environments cost megabytes that most clusters never need.
type expressions struct {
	params, patches bool
	compiler        *admissioncel.CompositedCompiler
}

func newExpressions(params bool) *expressions { return &expressions{params: params} }

func (e *expressions) options() admissioncel.OptionalVariableDeclarations {
	return admissioncel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true, HasPatchTypes: e.patches}
}

func (e *expressions) ready(l *list, p *field.Path) bool {
	if e.compiler == nil {
		var err error
		if e.compiler, err = admissioncel.NewCompositedCompiler(celenvironment.MustBaseEnvSet(celenvironment.DefaultCompatibilityVersion())); err != nil {
			l.add(field.InternalError(p, err))
			return false
		}
	}
	return true
}

func (e *expressions) check(l *list, x admissioncel.ExpressionAccessor, why string, p *field.Path) {
	if strings.TrimSpace(x.GetExpression()) == "" {
		l.required(p, why)
		return
	}
	if e.ready(l, p) {
		l.compiled(x.GetExpression(), e.compiler.CompileCELExpression(x, e.options(), celenvironment.NewExpressions).Error, p)
	}
}

func (l *list) compiled(expression string, err *apiservercel.Error, p *field.Path) {
	switch {
	case err == nil:
	case err.Type == apiservercel.ErrorTypeRequired:
		l.required(p, err.Detail)
	case err.Type == apiservercel.ErrorTypeInvalid:
		l.add(field.Invalid(p, expression, err.Detail))
	default:
		l.add(field.InternalError(p, err))
	}
}

func (e *expressions) variables(l *list, all []admissionregistrationv1.Variable, p *field.Path) {
	for i, v := range all {
		ip := p.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			l.required(ip.Child("name"), "name is not specified")
		} else if !celIdentifier.MatchString(v.Name) || slices.Contains(celReserved, v.Name) {
			l.add(field.Invalid(ip.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			l.required(ip.Child("expression"), "expression is not specified")
		} else if e.ready(l, ip) {
			r := e.compiler.CompileAndStoreVariable(variable{condition{v.Expression, anything}, v.Name}, e.options(), celenvironment.NewExpressions)
			l.compiled(v.Expression, r.Error, ip.Child("expression"))
		}
	}
}

// constraints is what both kinds of policy say about where they apply.
func constraints(l *list, failure *admissionregistrationv1.FailurePolicyType, kind *admissionregistrationv1.ParamKind, match *admissionregistrationv1.MatchResources, conditions []admissionregistrationv1.MatchCondition) {
	admissionFailurePolicy(l, failure, specPath)
	if kind != nil {
		paramKind(l, kind, specPath.Child("paramKind"))
	}
	if match == nil {
		l.required(specPath.Child("matchConstraints"), "")
	} else {
		matchResources(l, match, "resourceRules", specPath.Child("matchConstraints"))
		if len(match.ResourceRules) == 0 {
			l.required(specPath.Child("matchConstraints", "resourceRules"), "")
		}
	}
	matchConditions(l, conditions, kind != nil, specPath.Child("matchConditions"))
}

func paramKind(l *list, k *admissionregistrationv1.ParamKind, p *field.Path) {
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	vp := p.Child("apiVersion")
	switch {
	case k.APIVersion == "":
		l.required(vp, "")
	case err != nil:
		l.add(field.Invalid(vp, k.APIVersion, err.Error()))
	default:
		if gv.Group != "" {
			l.dnsSubdomain(vp, gv.Group)
		}
		l.messages(vp, gv.Version, validation.IsDNS1035Label(gv.Version))
	}
	if k.Kind == "" {
		l.required(p.Child("kind"), "")
		return
	}
	for _, m := range validation.IsDNS1035Label(strings.ToLower(k.Kind)) {
		l.add(field.Invalid(p.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+m))
	}
}

func admissionPolicy(o *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	l, s := &list{}, &o.Spec
	constraints(l, s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions)
	e := newExpressions(s.ParamKind != nil)
	e.variables(l, s.Variables, specPath.Child("variables"))
	if len(s.Validations)+len(s.AuditAnnotations) == 0 {
		l.required(specPath.Child("validations"), "validations or auditAnnotations must contain at least one item")
		l.required(specPath.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item")
	}
	for i := range s.Validations {
		rule(l, e, &s.Validations[i], specPath.Child("validations").Index(i))
	}
	if n := len(s.AuditAnnotations); n > maxAuditAnnotations {
		l.add(field.Invalid(specPath.Child("auditAnnotations"), s.AuditAnnotations, "must not have more than 20 auditAnnotations"))
	}
	keys := unique[string]{}
	for i, a := range s.AuditAnnotations {
		p := specPath.Child("auditAnnotations").Index(i)
		if o.Name == "" {
			l.add(field.Invalid(p.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			l.qualifiedName(p.Child("key"), o.Name+"/"+a.Key)
		}
		if len(a.ValueExpression) > maxAuditExpression {
			l.required(p.Child("valueExpression"), "must not exceed 5120 bytes in length")
		} else {
			e.check(l, condition{a.ValueExpression, textOrNil}, "valueExpression is not specified", p.Child("valueExpression"))
		}
		keys.check(l, p.Child("key"), a.Key, a.Key)
	}
	return l.ErrorList
}

func rule(l *list, e *expressions, v *admissionregistrationv1.Validation, p *field.Path) {
	e.check(l, condition{v.Expression, boolean}, "expression is not specified", p.Child("expression"))
	switch {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		l.add(field.Invalid(p.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	default:
		// What reads the message must not ask who may do what: the authorizer isn't there.
		quiet := *e
		if quiet.ready(l, p) {
			x := condition{v.MessageExpression, text}
			r := quiet.compiler.CompileCELExpression(x, admissioncel.OptionalVariableDeclarations{HasParams: true}, celenvironment.NewExpressions)
			l.compiled(v.MessageExpression, r.Error, p.Child("messageExpression"))
			e.compiler = quiet.compiler
		}
	}
	message := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && message == "":
		l.add(field.Invalid(p.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\r\n"):
		l.add(field.Invalid(p.Child("message"), v.Message, "must not contain line breaks"))
	}
	if v.Reason != nil {
		oneOf(l, p.Child("reason"), string(*v.Reason), "Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
	}
}

func mutatingPolicy(o *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
	l, s := &list{}, &o.Spec
	constraints(l, s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions)
	mutable(l, s.MatchConstraints, specPath.Child("matchConstraints"))
	e := newExpressions(s.ParamKind != nil)
	e.variables(l, s.Variables, specPath.Child("variables"))
	e.patches = true
	if len(s.Mutations) == 0 {
		l.required(specPath.Child("mutations"), "mutations must contain at least one item")
	}
	for i := range s.Mutations {
		mutation(l, e, &s.Mutations[i], specPath.Child("mutations").Index(i))
	}
	if s.ReinvocationPolicy == "" {
		l.required(specPath.Child("reinvocationPolicy"), "")
	} else {
		oneOf(l, specPath.Child("reinvocationPolicy"), s.ReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
	}
	return l.ErrorList
}

// mutable refuses operations in which there is nothing to change.
func mutable(l *list, m *admissionregistrationv1.MatchResources, p *field.Path) {
	if m == nil {
		return
	}
	for _, r := range m.ResourceRules {
		for _, op := range r.Operations {
			oneOf(l, p.Child("resourceRules", "operations"), op, admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Update)
		}
	}
}

func mutation(l *list, e *expressions, m *admissionregistrationv1.Mutation, p *field.Path) {
	switch m.PatchType {
	case "":
		l.required(p.Child("patchType"), "")
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			l.required(p.Child("jsonPatch"), "must be specified when patchType is JSONPatch")
		} else {
			e.check(l, &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, "", p.Child("jsonPatch", "expression"))
		}
		if m.ApplyConfiguration != nil {
			l.add(field.Invalid(p.Child("applyConfiguration"), "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			l.required(p.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration")
		} else {
			e.check(l, &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, "", p.Child("applyConfiguration", "expression"))
		}
		if m.JSONPatch != nil {
			l.add(field.Invalid(p.Child("jsonPatch"), "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		oneOf(l, p.Child("patchType"), m.PatchType, admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)
	}
}

func admissionPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	l := &list{}
	policyBinding(l, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	if len(b.Spec.ValidationActions) == 0 {
		l.required(specPath.Child("validationActions"), "at least one validation action is required")
	}
	actions := unique[admissionregistrationv1.ValidationAction]{}
	for i, a := range b.Spec.ValidationActions {
		oneOf(l, specPath.Child("validationActions").Index(i), a, admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)
		actions.check(l, specPath.Child("validationActions").Index(i), a, a)
	}
	if actions[admissionregistrationv1.Deny] && actions[admissionregistrationv1.Warn] {
		l.add(field.Invalid(specPath.Child("validationActions"), b.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return l.ErrorList
}

func mutatingPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	l := &list{}
	policyBinding(l, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	mutable(l, b.Spec.MatchResources, specPath.Child("matchResources"))
	return l.ErrorList
}

func policyBinding(l *list, name string, ref *admissionregistrationv1.ParamRef, match *admissionregistrationv1.MatchResources) {
	if name == "" {
		l.required(specPath.Child("policyName"), "")
	} else {
		l.dnsSubdomain(specPath.Child("policyName"), name)
	}
	if ref != nil {
		p := specPath.Child("paramRef")
		if ref.Name != "" {
			l.pathSegment(p.Child("name"), ref.Name)
		}
		if ref.Selector != nil {
			selector(l, ref.Selector, p.Child("selector"))
		}
		switch {
		case ref.Name == "" && ref.Selector == nil:
			l.required(p, "one of name or selector must be specified")
		case ref.Name != "" && ref.Selector != nil:
			l.add(field.Forbidden(p.Child("name"), "name and selector are mutually exclusive"), field.Forbidden(p.Child("selector"), "name and selector are mutually exclusive"))
		}
		if a := ref.ParameterNotFoundAction; a == nil || *a == "" {
			l.required(p.Child("parameterNotFoundAction"), "")
		} else {
			oneOf(l, p.Child("parameterNotFoundAction"), *a, admissionregistrationv1.DenyAction, admissionregistrationv1.AllowAction)
		}
	}
	if match != nil {
		matchResources(l, match, "resourceRules", specPath.Child("matchResources"))
	}
}
