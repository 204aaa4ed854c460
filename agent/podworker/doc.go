// Package podworker runs the pods of one node: one lightweight worker a pod, driven by keys, that compares what is
// desired (the pod) with what is observed (sandbox and containers, as the runtime's events tell) and does the next thing.
//
// Reads:  desired pods, the runtime's events, probe results.
// Writes: sandboxes and containers, through CRI.
package podworker
