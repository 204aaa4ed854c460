package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The small checks that many types share. Each appends what it finds.

// list collects errors.
type list struct{ field.ErrorList }

func (l *list) add(errs ...*field.Error)           { l.ErrorList = append(l.ErrorList, errs...) }
func (l *list) addAll(errs field.ErrorList)        { l.ErrorList = append(l.ErrorList, errs...) }
func (l *list) required(p *field.Path, why string) { l.add(field.Required(p, why)) }

// messages turns the string results of the validation library into Invalid errors.
func (l *list) messages(p *field.Path, value any, msgs []string) {
	for _, m := range msgs {
		l.add(field.Invalid(p, value, m))
	}
}

func (l *list) dnsLabel(p *field.Path, v string) { l.messages(p, v, validation.IsDNS1123Label(v)) }
func (l *list) dnsSubdomain(p *field.Path, v string) {
	l.messages(p, v, validation.IsDNS1123Subdomain(v))
}

func (l *list) qualifiedName(p *field.Path, v string) {
	l.messages(p, v, validation.IsQualifiedName(v))
}

// pathSegment checks a name that is put into a URL's path.
func (l *list) pathSegment(p *field.Path, v string) {
	l.messages(p, v, content.IsPathSegmentName(v))
}

func (l *list) pathSegmentRequired(p *field.Path, v string) {
	if v == "" {
		l.required(p, "")
		return
	}
	l.pathSegment(p, v)
}

func oneOf[T ~string](l *list, p *field.Path, v T, allowed ...T) {
	if !slices.Contains(allowed, v) {
		l.add(field.NotSupported(p, v, allowed))
	}
}

// requiredOneOf tells a missing value from a wrong one.
func requiredOneOf[T ~string](l *list, p *field.Path, v T, why string, allowed ...T) {
	if v == "" {
		l.required(p, why)
		return
	}
	oneOf(l, p, v, allowed...)
}

func (l *list) notNegative(p *field.Path, v int64) {
	if v < 0 {
		l.add(field.Invalid(p, v, "must be greater than or equal to 0").WithOrigin("minimum"))
	}
}

func (l *list) positive(p *field.Path, v int64) {
	if v <= 0 {
		l.add(field.Invalid(p, v, "must be greater than 0").WithOrigin("minimum"))
	}
}

func (l *list) between(p *field.Path, v, low, high int64) {
	if v < low || v > high {
		l.add(field.Invalid(p, v, validation.InclusiveRangeError(int(low), int(high))))
	}
}

func (l *list) port(p *field.Path, v int32) { l.messages(p, v, validation.IsValidPortNum(int(v))) }

// portRef checks a port given by number or name.
func (l *list) portRef(p *field.Path, v intstr.IntOrString) {
	if v.Type == intstr.String {
		l.messages(p, v.StrVal, validation.IsValidPortName(v.StrVal))
		return
	}
	l.port(p, v.IntVal)
}

func (l *list) ip(p *field.Path, v string) { l.addAll(validation.IsValidIP(p, v)) }

// relative refuses paths that leave the place they are meant for.
func (l *list) relative(p *field.Path, v string) {
	if strings.HasPrefix(v, "/") {
		l.add(field.Invalid(p, v, "must be a relative path"))
	}
	l.noBackstep(p, v)
}

func (l *list) noBackstep(p *field.Path, v string) {
	if slices.Contains(strings.Split(v, "/"), "..") {
		l.add(field.Invalid(p, v, "must not contain '..'"))
	}
}

func (l *list) immutable(p *field.Path, same bool, value any) {
	if !same {
		l.add(field.Invalid(p, value, "field is immutable"))
	}
}

func (l *list) quantity(p *field.Path, q resource.Quantity) {
	if q.Sign() < 0 {
		l.add(field.Invalid(p, q.String(), "must be greater than or equal to 0"))
	}
}

func (l *list) percentOrCount(p *field.Path, v intstr.IntOrString) {
	if v.Type == intstr.String {
		l.messages(p, v.StrVal, validation.IsValidPercent(v.StrVal))
		return
	}
	l.notNegative(p, int64(v.IntVal))
}

// isZero reports "0" and "0%".
func isZero(v *intstr.IntOrString) bool {
	return v != nil && (v.Type == intstr.Int && v.IntVal == 0 || v.Type == intstr.String && v.StrVal == "0%")
}

func (l *list) protocol(p *field.Path, v corev1.Protocol) {
	if v == "" {
		l.required(p, "")
		return
	}
	oneOf(l, p, v, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// unique reports a value that was seen before.
type unique[K comparable] map[K]bool

func (u unique[K]) check(l *list, p *field.Path, key K, value any) {
	if u[key] {
		l.add(field.Duplicate(p, value))
	}
	u[key] = true
}

// keys checks the names of a ConfigMap's or Secret's data.
func (l *list) dataKey(p *field.Path, key string) {
	l.messages(p.Key(key), key, validation.IsConfigMapKey(key))
}

func tooLong(p *field.Path, size, limit int) *field.Error {
	return field.TooLong(p, fmt.Sprintf("%d bytes", size), limit)
}
