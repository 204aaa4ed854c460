// Package etcd is the datastore: etcd embedded in the server process, or a client of an external cluster. The embedded
// one listens on a unix socket in a directory that root alone may enter; the API server itself doesn't use the socket
// but calls the server's functions directly, which spares it a gRPC connection and its buffers for every resource.
//
// Reads:  the Config; <dir>/member.
// Writes: <dir>/member (etcd's own files), <dir>/client.sock, <dir>/peer.sock.
package etcd
