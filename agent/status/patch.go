package status

import (
	"encoding/json"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// Patch returns the strategic merge patch that brings old to next, or nil when they mean the same. Only conditions that
// changed are in it, so that other writers' conditions are safe; lists whose order matters are replaced as a whole.
func Patch(uid types.UID, old, next *corev1.PodStatus) ([]byte, error) {
	changes := map[string]any{}
	o, n := reflect.ValueOf(old).Elem(), reflect.ValueOf(next).Elem()
	for i := range o.NumField() {
		f := o.Type().Field(i)
		if equality.Semantic.DeepEqual(o.Field(i).Interface(), n.Field(i).Interface()) {
			continue
		}
		name := jsonName(f)
		switch {
		case f.Name == "Conditions":
			if list := changedConditions(old.Conditions, next.Conditions); len(list) > 0 {
				changes[name] = list
			}
		case n.Field(i).IsZero():
			changes[name] = nil
		case f.Name == "PodIPs" || f.Name == "HostIPs": // merged by key unless told otherwise, which would keep old addresses
			list := []any{map[string]string{"$patch": "replace"}}
			for j := range n.Field(i).Len() {
				list = append(list, n.Field(i).Index(j).Interface())
			}
			changes[name] = list
		default:
			changes[name] = n.Field(i).Interface()
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": changes})
	if err != nil {
		return nil, fmt.Errorf("status patch: %w", err)
	}
	return b, nil
}

func jsonName(f reflect.StructField) string {
	tag := f.Tag.Get("json")
	for i := range len(tag) {
		if tag[i] == ',' {
			return tag[:i]
		}
	}
	return tag
}

// patchedCondition is a condition whose reason and message are spoken of even when they are empty: conditions are merged
// field by field, and what isn't mentioned would stay.
type patchedCondition struct {
	corev1.PodCondition `json:",inline"`
	Reason              *string `json:"reason"`
	Message             *string `json:"message"`
}

func changedConditions(old, next []corev1.PodCondition) []any {
	var out []any
	for _, c := range old {
		if owned[c.Type] && condition(next, c.Type) == nil {
			out = append(out, removedCondition{"delete", c.Type})
		}
	}
	for _, c := range next {
		was := condition(old, c.Type)
		switch {
		case was == nil:
			out = append(out, c)
		case (owned[c.Type] || c.Type == corev1.DisruptionTarget) && !equality.Semantic.DeepEqual(*was, c):
			out = append(out, patchedCondition{c, orNull(c.Reason), orNull(c.Message)})
		}
	}
	return out
}

// removedCondition is the directive that takes a condition away.
type removedCondition struct {
	Patch string                  `json:"$patch"`
	Type  corev1.PodConditionType `json:"type"`
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
