package upstream

// The programs' defaults, but for what a machine of cgroup v1 without CAP_SYS_RESOURCE needs, for places of the node's
// own, and for a nearly full disk of the developer's machine.

const containerdConfig = `version = 3
root = '{node}/containerd'
state = '{node}/run/containerd'
imports = []
[grpc]
address = '{node}/run/containerd.sock'
[ttrpc]
address = '{node}/run/containerd.sock.ttrpc'
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.internal.v1.opt']
path = '{node}/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'registry.k8s.io/pause:3.10.2'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{peers}/runc'
Root = '{node}/run/runc'
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{plugins}']
conf_dir = '{node}/cni'
use_internal_loopback = true
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
containerRuntimeEndpoint: unix://{node}/run/containerd.sock
podLogsDir: {node}/log/pods
resolvConf: {node}/resolv.conf
clusterDNS: [10.43.0.10]
clusterDomain: cluster.local
serverTLSBootstrap: true
rotateCertificates: true
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: {node}/etc/ca.crt}}
authorization: {mode: Webhook}
enforceNodeAllocatable: [pods]
failSwapOn: false
healthzBindAddress: 127.0.0.1
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 50Mi}
`
