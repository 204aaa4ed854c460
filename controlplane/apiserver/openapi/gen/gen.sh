#!/bin/sh
# Generates ../definitions.txt and ../merge.txt from the API types. Run it when k8s.io/api changes its version.
set -eu
cd "$(dirname "$0")"
mkdir -p definitions
echo "package definitions" >definitions/doc.go
packages=""
for p in core apps batch autoscaling policy networking discovery coordination events rbac storage scheduling node \
	certificates admissionregistration flowcontrol resource authentication authorization storagemigration; do
	packages="$packages k8s.io/api/$p/v1"
done
go run k8s.io/kube-openapi/cmd/openapi-gen --output-dir definitions --output-pkg definitions --output-file zz_generated.go \
	--go-header-file /dev/null --report-filename /dev/null \
	$packages k8s.io/api/autoscaling/v2 k8s.io/api/scheduling/v1alpha3 \
	k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/util/intstr \
	k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/version
go run .
rm -r definitions
