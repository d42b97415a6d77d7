package fleet

import "time"

// StoreSeat is a machine's part in the store. The zero value: none, the store is elsewhere.
type StoreSeat struct {
	Role   string `json:"role,omitempty"`   // voter, learner, stand-by
	Member string `json:"member,omitempty"` // etcd's member ID, hex; of voters and learners
	Peer   string `json:"peer,omitempty"`   // URL of its peer port; a stand-by with one can be given a seat
}

// StoreMember is one host of the store as an answer to an operator's question.
type StoreMember struct {
	ID      string    `json:"id,omitempty"` // etcd's member ID, hex; empty: it stands by
	Name    string    `json:"name"`
	Machine MachineID `json:"machine,omitempty"` // empty: not registered now
	Role    string    `json:"role"`              // voter, learner, stand-by
	Zone    string    `json:"zone,omitempty"`
	Peer    string    `json:"peer,omitempty"`
	Leader  bool      `json:"leader,omitempty"`
	// Health is "ok", or what is wrong in a few words.
	Health string `json:"health"`
	// Lag is how many entries of the log it is behind the furthest; -1: not known.
	Lag int64 `json:"lag"`
	// Size and Used are bytes of its file, and of that what is not free; 0: not known.
	Size int64 `json:"size,omitempty"`
	Used int64 `json:"used,omitempty"`
}

// StoreMembers is the whole answer.
type StoreMembers struct {
	Cluster string        `json:"cluster,omitempty"` // etcd's cluster ID, hex
	Members []StoreMember `json:"members"`
	// Waits is the change of the members that is due and not made yet, and why, as the leader says; only in its own answer.
	Waits string `json:"waits,omitempty"`
	// Lost says why the store does not answer; empty: it does.
	Lost string `json:"lost,omitempty"`
}

// StoreOrigin is what a cluster remembers of how it began. A cluster that was restored, or made anew of what was left, names the
// one it came from; machines that knew that one do nothing it orders until somebody confirms it.
type StoreOrigin struct {
	Cluster   string    `json:"cluster"`            // etcd's cluster ID that this is about, hex
	From      []string  `json:"from,omitempty"`     // those it descends from, the nearest first
	Rev       int64     `json:"rev,omitempty"`      // the revision it was taken at
	At        time.Time `json:"at,omitzero"`        // when it was made
	Confirmed time.Time `json:"confirmed,omitzero"` // zero: not yet
	By        string    `json:"confirmedBy,omitempty"`
	// Took is the cluster that worked until this one was made in its place, on purpose (restore --force): its members come along, whether or not
	// they heard that they were taken out. Machines still wait for the confirmation.
	Took string `json:"took,omitempty"`
}
