// Package early is what package haste does before Go's runtime begins.
package early

import "C"
