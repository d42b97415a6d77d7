package fleet

import "time"

// Processes is what runs of a unit on its machine and what that costs, as systemd there counts it. A number that systemd does not keep for the unit is
// left out.
type Processes struct {
	MainPID      uint32        `json:"mainPID,omitempty"`
	Tasks        uint64        `json:"tasks,omitempty"`
	Memory       uint64        `json:"memory,omitempty"` // bytes
	CPU          time.Duration `json:"cpu,omitempty"`    // nanoseconds
	ControlGroup string        `json:"controlGroup,omitempty"`
	List         []Process     `json:"processes,omitempty"` // by PID
}

// Process is one process of a unit.
type Process struct {
	PID     uint32 `json:"pid"`
	Command string `json:"command"` // its command line
}
