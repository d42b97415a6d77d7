package unit

// Name is a unit's full name, such as web@1.service. Make one from input with ParseName.
type Name string

// Hash is the SHA-1, in 40 hex digits, of a unit's printed form (fleet's identity of a unit's content).
type Hash string

// Option is one Name=Value line of a section. Values keep their continuation lines.
type Option struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Value   string `json:"value"`
	Line    int    `json:"-"` // line in the file it was read from, 0 if it was not
}

// File is a unit file: its options in order. Comments, blank lines and empty sections are not kept, as in fleet. DropIns are the files
// beside it that add to it, a template's before its instance's, each by name; most units have none.
type File struct {
	Options []Option
	DropIns []DropIn
}

// Needs is what a unit's [X-Fleet] section asks of the machine it runs on.
type Needs struct {
	MachineID string              // full machine ID, or its first eight characters
	MachineOf []Name              // units that must be on the same machine, all of them
	Metadata  map[string][]string // for each key one of the values; all keys
	Conflicts []Glob              // units that must not be on the same machine; a unit never conflicts with itself
	Replaces  []Glob              // units that are moved away from the machine
	Publish   []Port              // ports of the machine that no other unit there may publish
	Global    bool                // run on every machine that fits

	Exclusive    bool       // at most one copy is alive at any time
	OnDisconnect Disconnect // what a cut-off host does with it; empty: it runs on
}
