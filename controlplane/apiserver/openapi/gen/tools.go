//go:build tools

package main

import (
	_ "k8s.io/api/core/v1"
	_ "k8s.io/kube-openapi/cmd/openapi-gen"
)
