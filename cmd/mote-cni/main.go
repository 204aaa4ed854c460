// Command mote-cni is Mote's CNI plugin: a container runtime executes it for each pod. See package cni.
package main

import "github.com/mote-edge/mote/cni"

func main() { cni.Main() }
