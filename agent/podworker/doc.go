// Package podworker runs the pods of one node: one lightweight worker a pod, driven by keys, that compares what is
// desired (the pod) with what is observed (sandbox and containers, as the runtime's events tell) and does the next
// things. step decides and is pure; a worker has a goroutine only while it decides or an action is under way.
//
// Reads:  desired pods, the runtime's events, probe results, ConfigMaps and Secrets that environments name.
// Writes: sandboxes and containers, through CRI; <data>/agent/pods/<uid>, <run>/hosts/<uid>; the pods' log
// directories and the links to their logs.
package podworker
