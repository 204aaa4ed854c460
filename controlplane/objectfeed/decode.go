package objectfeed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// protobufMagic begins every value that is stored as protobuf: a runtime.Unknown follows.
var protobufMagic = []byte("k8s\x00")

// Field numbers of runtime.Unknown, TypeMeta, any object, and ObjectMeta, as their .proto files have them.
const (
	unknownTypeMeta = 1
	unknownRaw      = 2

	typeMetaAPIVersion = 1
	typeMetaKind       = 2

	objectMetadata = 1

	metaName              = 1
	metaNamespace         = 3
	metaUID               = 5
	metaDeletionTimestamp = 9
	metaOwnerReferences   = 13
	metaFinalizers        = 14
)

var errEncoding = errors.New("neither protobuf nor JSON; is encryption at rest on?")

// decode reads a stored object's kind and the metadata that ownership is about, and steps over all the rest.
func decode(value []byte) (schema.GroupVersionKind, *metav1.ObjectMeta, error) {
	switch {
	case bytes.HasPrefix(value, protobufMagic):
		return decodeProtobuf(value[len(protobufMagic):])
	case len(value) > 0 && value[0] == '{':
		var o struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        struct {
				Name              string                  `json:"name"`
				Namespace         string                  `json:"namespace"`
				UID               types.UID               `json:"uid"`
				DeletionTimestamp *metav1.Time            `json:"deletionTimestamp"`
				OwnerReferences   []metav1.OwnerReference `json:"ownerReferences"`
				Finalizers        []string                `json:"finalizers"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(value, &o); err != nil {
			return schema.GroupVersionKind{}, nil, err
		}
		m := o.Metadata
		return schema.FromAPIVersionAndKind(o.APIVersion, o.Kind), &metav1.ObjectMeta{
			Name: m.Name, Namespace: m.Namespace, UID: m.UID, DeletionTimestamp: m.DeletionTimestamp, OwnerReferences: m.OwnerReferences, Finalizers: m.Finalizers,
		}, nil
	}
	return schema.GroupVersionKind{}, nil, errEncoding
}

func decodeProtobuf(b []byte) (gvk schema.GroupVersionKind, m *metav1.ObjectMeta, err error) {
	var apiVersion, kind string
	var raw []byte
	err = fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case unknownTypeMeta:
			return fields(v, func(n protowire.Number, v []byte) error {
				switch n {
				case typeMetaAPIVersion:
					apiVersion = string(v)
				case typeMetaKind:
					kind = string(v)
				}
				return nil
			})
		case unknownRaw:
			raw = v
		}
		return nil
	})
	if err != nil {
		return gvk, nil, err
	}
	m = &metav1.ObjectMeta{}
	err = fields(raw, func(n protowire.Number, v []byte) error {
		if n != objectMetadata {
			return nil
		}
		return fields(v, func(n protowire.Number, v []byte) error { return setMeta(m, n, v) })
	})
	return schema.FromAPIVersionAndKind(apiVersion, kind), m, err
}

func setMeta(m *metav1.ObjectMeta, n protowire.Number, v []byte) error {
	switch n {
	case metaName:
		m.Name = string(v)
	case metaNamespace:
		m.Namespace = string(v)
	case metaUID:
		m.UID = types.UID(v)
	case metaDeletionTimestamp:
		m.DeletionTimestamp = &metav1.Time{} // that there is one is all that counts
	case metaOwnerReferences:
		var ref metav1.OwnerReference
		if err := ref.Unmarshal(v); err != nil {
			return fmt.Errorf("owner reference: %w", err)
		}
		m.OwnerReferences = append(m.OwnerReferences, ref)
	case metaFinalizers:
		m.Finalizers = append(m.Finalizers, string(v))
	}
	return nil
}

// fields calls f with every length-delimited field of a message.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if t != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, t, b); size < 0 {
				return protowire.ParseError(size)
			}
			b = b[size:]
			continue
		}
		v, size := protowire.ConsumeBytes(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := f(n, v); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}
