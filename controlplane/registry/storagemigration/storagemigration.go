// Package storagemigration holds the requests of storagemigration.k8s.io/v1 to
// write all objects of a resource again in its current storage version. Mote
// stores every built-in resource in one version, so nothing acts on them.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package storagemigration

import (
	"strings"

	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

type migration = migrationv1.StorageVersionMigration

// Storages builds everything of storagemigration.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	return to, resource.AddAll(c, to, &migrations)
}

var migrations = resource.Descriptor[*migration]{
	GV: migrationv1.SchemeGroupVersion, Plural: "storageversionmigrations", Singular: "storageversionmigration", Cluster: true,
	New:       func() *migration { return &migration{} },
	NewList:   func() runtime.Object { return &migrationv1.StorageVersionMigrationList{} },
	HasStatus: true, StatusKeepsMeta: true, NeedsResourceVersion: true,
	Validate: validate,
	ValidateUpdate: func(m, old *migration) field.ErrorList {
		return append(validate(m), validation.ValidateImmutableField(m.Spec, old.Spec, field.NewPath("spec"))...)
	},
	ValidateStatus: validateStatus,
	Columns: []resource.Column[*migration]{
		resource.Name[*migration](),
		{Name: "Resource", Value: func(m *migration) any { return m.Spec.Resource.String() }},
		{Name: "Status", Value: func(m *migration) any {
			for _, t := range []migrationv1.MigrationConditionType{migrationv1.MigrationSucceeded, migrationv1.MigrationFailed, migrationv1.MigrationRunning} {
				if is(m, t) {
					return string(t)
				}
			}
			return "Unknown"
		}},
	},
}

func is(m *migration, t migrationv1.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
}

func validate(m *migration) field.ErrorList {
	errs := validation.ValidateObjectMeta(&m.ObjectMeta, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	path, r := field.NewPath("spec", "resource"), m.Spec.Resource
	if r.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else if msgs := utilvalidation.IsDNS1035Label(r.Resource); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("resource"), r.Resource, strings.Join(msgs, ",")))
	}
	if r.Group != "" {
		if msgs := utilvalidation.IsDNS1123Subdomain(r.Group); len(msgs) > 0 {
			errs = append(errs, field.Invalid(path.Child("group"), r.Group, strings.Join(msgs, ",")))
		}
	}
	return errs
}

// validateStatus lets a migration end once, one way.
func validateStatus(m, old *migration) field.ErrorList {
	path := field.NewPath("status")
	errs := metav1validation.ValidateConditions(m.Status.Conditions, path.Child("conditions"))
	if old.Status.ResourceVersion != "" && old.Status.ResourceVersion != m.Status.ResourceVersion {
		errs = append(errs, field.Invalid(path.Child("resourceVersion"), m.Status.ResourceVersion, "field is immutable"))
	}
	if is(m, migrationv1.MigrationSucceeded) && is(m, migrationv1.MigrationFailed) {
		errs = append(errs, field.Invalid(path.Child("conditions"), m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	for t, message := range map[migrationv1.MigrationConditionType]string{
		migrationv1.MigrationSucceeded: "Success condition cannot be set to false once it is true",
		migrationv1.MigrationFailed:    "Failed condition cannot be set to false once it is true",
	} {
		if is(old, t) && !is(m, t) {
			errs = append(errs, field.Invalid(path.Child("conditions"), m.Status.Conditions, message))
		}
	}
	return errs
}
