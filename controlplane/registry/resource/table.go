package resource

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Column is one cell of `kubectl get`. Wide columns show with -o wide alone.
type Column[T any] struct {
	Name  string
	Type  string // "string" when empty
	Wide  bool
	Doc   string
	Value func(T) any
}

// Name is the first column of nearly every table.
func Name[T Object]() Column[T] {
	return Column[T]{Name: "Name", Doc: "Name must be unique within a namespace.", Value: func(o T) any { return o.GetName() }}
}

// Age is the column that shows how long ago the object was created.
func Age[T Object]() Column[T] {
	return Column[T]{
		Name: "Age", Doc: "CreationTimestamp is when the server created this object.",
		Value: func(o T) any { return Since(o.GetCreationTimestamp()) },
	}
}

// Since renders a point in time as kubectl does ("5m", "<unknown>").
func Since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

func (d *Descriptor[T]) table() rest.TableConvertor {
	if len(d.Columns) == 0 {
		return rest.NewDefaultTableConvertor(d.GroupResource())
	}
	return tables[T]{columns: d.Columns, conditions: d.RowConditions}
}

// Table renders objects of one kind, and their lists, with columns.
func Table[T Object](columns []Column[T]) rest.TableConvertor { return tables[T]{columns: columns} }

type tables[T Object] struct {
	columns    []Column[T]
	conditions func(T) []metav1.TableRowCondition
}

func (t tables[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	add := func(obj runtime.Object) error {
		typed, ok := obj.(T)
		if !ok {
			return fmt.Errorf("no table for %T", obj)
		}
		cells := make([]any, len(t.columns))
		for i, c := range t.columns {
			cells[i] = c.Value(typed)
		}
		row := metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: obj}}
		if t.conditions != nil {
			row.Conditions = t.conditions(typed)
		}
		table.Rows = append(table.Rows, row)
		return nil
	}
	if meta.IsListType(object) {
		if err := meta.EachListItem(object, add); err != nil {
			return nil, err
		}
	} else if err := add(object); err != nil {
		return nil, err
	}
	if m, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion, table.Continue, table.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); ok && o.NoHeaders {
		return table, nil
	}
	table.ColumnDefinitions = make([]metav1.TableColumnDefinition, len(t.columns))
	for i, c := range t.columns {
		def := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Description: c.Doc}
		if def.Type == "" {
			def.Type = "string"
		}
		if c.Name == "Name" {
			def.Format = "name"
		}
		if c.Wide {
			def.Priority = 1
		}
		table.ColumnDefinitions[i] = def
	}
	return table, nil
}
