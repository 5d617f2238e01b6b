//go:build tools

// Package tools keeps Helm, which build.py builds for the chart's tests, in go.mod and go.sum.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
