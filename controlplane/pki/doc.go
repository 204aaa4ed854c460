// Package pki is the cluster's certificate authority: the keys that must outlive a restart (two authorities and the
// service-account signing key) lie on disk, everything else is issued in memory when the server starts, and again long
// before it ends.
//
// One authority signs client, serving and kubelet certificates; a second one signs the front proxy's certificate alone,
// so that no client of the cluster can claim another user's name by request headers.
//
// Reads:  <dir>/ca.{crt,key}, front-proxy-ca.{crt,key}, service-account.key.
// Writes: the same files when they are missing, the files of exported leaves, and the kubeconfig files that callers name;
// all with mode 0600.
package pki
