// Package apiserver puts the API server together: the built-in resources, custom resources and aggregated servers as
// one chain behind one listener, with authentication, authorization and admission before it. The frame is
// k8s.io/apiserver and its siblings; the parts that are Mote's live in the sub-packages.
//
//	request ─► aggregator ─► built-in resources ─► custom resources ─► 404
//	              │ remote API services
//
// Reads:  certificates from a pki.Store, objects from an etcd.Store.
// Writes: API objects, through the resources' storage; the objects that a cluster begins with (sub-package bootstrap).
package apiserver
