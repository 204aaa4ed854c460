package authorization

import (
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// attributes is the question as the authorizer wants it.
func attributes(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if r == nil {
		a := authorizer.AttributesRecord{User: u}
		if n != nil {
			a.Path, a.Verb = n.Path, n.Verb
		}
		return a
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true,
	}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	if s := r.LabelSelector; s != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := r.FieldSelector; s != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return a
}

var labelOperators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn:           selection.In,
	metav1.LabelSelectorOpNotIn:        selection.NotIn,
	metav1.LabelSelectorOpExists:       selection.Exists,
	metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

// labelRequirements returns what it understands and an error for the rest:
// requirements are ANDed, so leaving one out asks for more, never for less.
func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		reqs, _ := parsed.Requirements()
		return reqs, nil
	}
	var reqs labels.Requirements
	var errs []error
	for _, e := range s.Requirements {
		op, ok := labelOperators[e.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", e.Operator))
			continue
		}
		req, err := labels.NewRequirement(e.Key, op, e.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reqs = append(reqs, *req)
	}
	return reqs, errors.Join(errs...)
}

func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var reqs fields.Requirements
	var errs []error
	for _, e := range s.Requirements {
		op := selection.Equals
		switch {
		case e.Operator == metav1.FieldSelectorOpNotIn:
			op = selection.NotEquals
		case e.Operator != metav1.FieldSelectorOpIn:
			errs = append(errs, fmt.Errorf("fieldSelectors do not yet support %v", e.Operator))
			continue
		}
		if len(e.Values) != 1 {
			errs = append(errs, errors.New("fieldSelectors must have exactly one value"))
			continue
		}
		reqs = append(reqs, fields.Requirement{Field: e.Key, Operator: op, Value: e.Values[0]})
	}
	return reqs, errors.Join(errs...)
}

// validateSelectors checks the shape of the selectors alone; what they say is
// the evaluation's business.
func validateSelectors(r *authorizationv1.ResourceAttributes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(raw string, requirements int, p *field.Path) {
		switch {
		case raw != "" && requirements > 0:
			errs = append(errs, field.Invalid(p.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
		case raw == "" && requirements == 0:
			errs = append(errs, field.Required(p.Child("requirements"), "when "+p.String()+" is specified, requirements or rawSelector is required"))
		}
	}
	if s := r.LabelSelector; s != nil {
		check(s.RawSelector, len(s.Requirements), path.Child("labelSelector"))
	}
	if s := r.FieldSelector; s != nil {
		check(s.RawSelector, len(s.Requirements), path.Child("fieldSelector"))
	}
	return errs
}
