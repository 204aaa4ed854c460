//go:build !cgo || !seccomp

// Package seccompcache needs libseccomp; without it there is nothing to cache.
//
// Reads:  nothing.
// Writes: nothing.
package seccompcache

import "github.com/opencontainers/runc/libcontainer/configs"

// Command is the argument with which this program compiles a profile.
const Command = "seccomp-compile"

// Cache does nothing.
type Cache struct{}

// Open does nothing.
func Open(string) (*Cache, error) { return &Cache{}, nil }

// Ensure does nothing.
func (*Cache) Ensure(*configs.Seccomp) error { return nil }

// Main does nothing.
func Main() {}
