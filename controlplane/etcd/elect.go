package etcd

import (
	"context"
	"expvar"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	electionPoll = 2 * time.Millisecond
	// settledPolls is how many polls in a row must find the log replayed where raft's own word can't be had.
	settledPolls = 100
)

// elector makes a lone member stand for leader now rather than after a random election timeout. MsgTimeoutNow is raft's
// own word for that (raft thesis, 3.10); a leader or a candidate ignores it.
//
// A candidate reads all entries that raft doesn't know to be applied. etcd may have applied them already, and compacted
// them away; raft is told a moment later, and panics if it has to read them in between. So the word is given only when
// raft itself says that it knows.
type elector struct{ settled int }

func (e *elector) try(ctx context.Context, s *etcdserver.EtcdServer) {
	if len(s.Cluster().Members()) != 1 || s.Leader() != 0 {
		return
	}
	id := uint64(s.MemberID())
	if !e.replayed(s, id) {
		return
	}
	// Refused until the first configuration entry is applied; the caller comes again.
	_ = s.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id})
}

func (e *elector) replayed(s *etcdserver.EtcdServer, id uint64) bool {
	if status, ok := raftStatus(id); ok {
		return status.Applied >= status.GetCommit()
	}
	if s.AppliedIndex() < s.CommittedIndex() {
		e.settled = 0
		return false
	}
	e.settled++
	return e.settled > settledPolls
}

// raftStatus is what etcd publishes for debugging. It is of the server that started last in this process, which with
// several of them, in tests, may be another one.
func raftStatus(id uint64) (raft.Status, bool) {
	f, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return raft.Status{}, false
	}
	status, ok := f().(raft.Status)
	return status, ok && status.ID == id
}
