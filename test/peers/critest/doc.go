// Package critest pins the version of cri-tools whose validation suite ../build compiles.
package critest
