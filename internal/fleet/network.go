package fleet

import "time"

// HostNetwork is one machine's part of the overlay network, as its netd found it when it was asked.
type HostNetwork struct {
	Machine MachineID     `json:"machineID"`
	IP      string        `json:"primaryIP,omitempty"` // as the machine is registered
	Trouble string        `json:"trouble,omitempty"`   // why nothing else is known, or what keeps this machine's network from being in order
	Ready   bool          `json:"ready"`
	Subnet  string        `json:"subnet,omitempty"` // its lease's prefixes, joined by commas
	Backend string        `json:"backend,omitempty"`
	Why     string        `json:"why,omitempty"` // of the backend
	Iface   string        `json:"iface,omitempty"`
	MTU     int           `json:"mtu,omitempty"`     // of its workloads
	Known   int           `json:"known"`             // other machines with a lease
	Reached int           `json:"reached"`           // those that answered through the overlay
	Slowest time.Duration `json:"slowest,omitempty"` // of the answers, in nanoseconds
	// Peers are the other machines by their lease; in large clusters only those in trouble.
	Peers []NetworkPeer `json:"peers,omitempty"`
}

// NetworkPeer is one machine's way to another. Trouble or RTT is set.
type NetworkPeer struct {
	Subnet   string        `json:"subnet"`
	Machine  MachineID     `json:"machineID,omitempty"` // empty: its lease is not from a netd
	PublicIP string        `json:"publicIP"`
	RTT      time.Duration `json:"rtt,omitempty"`     // through the overlay, in nanoseconds
	Trouble  string        `json:"trouble,omitempty"` // does not answer, or why there is no way to it
}
