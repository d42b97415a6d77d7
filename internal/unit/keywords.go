package unit

// Keyword is one option of [X-Fleet], as manuals tell of it.
type Keyword struct {
	Name  string   // "MachineOf"
	Value string   // what it takes: "UNIT"
	Does  string   // sentences
	Older []string // names of the same in fleet's first years
}

// Keywords are all options that [X-Fleet] takes, those first that most units need.
func Keywords() []Keyword {
	return []Keyword{
		{"MachineMetadata", "KEY=VALUE", "Only machines with this metadata (metadata= in fleet.conf, or fleetctl set-metadata) take the unit. " +
			"Of several values for one key any will do; all keys must fit. Several in one line are quoted each: \"rack=7\" \"zone=a\".",
			[]string{"X-ConditionMachineMetadata"}},
		{"MachineOf", "UNIT", "The unit goes where that unit is, and follows it. Several lines: where all of them are.", []string{"X-ConditionMachineOf"}},
		{"Conflicts", "PATTERN...", "The unit never shares a machine with units whose names fit a pattern such as web@*.service, whichever of the two says so.",
			[]string{"X-Conflicts"}},
		{"Global", "yes|no", "The unit runs on every machine that MachineMetadata and Conflicts allow, also on those that come later.", nil},
		{"MachineID", "ID", "The unit runs on that machine and no other.", []string{"X-ConditionMachineID", "X-ConditionMachineBootID"}},
		{"Replaces", "PATTERN", "Units whose names fit the pattern make room: they move away from the machine that this unit goes to.", nil},
		{"Exclusive", "yes|no", "At most one copy is alive at any moment, also while the network is cut: a host that lost touch stops or kills its copy before the cluster " +
			"starts another. The unit gets a fencing token (FLEET_FENCING_TOKEN in its environment, and the credential fleet.fencing-token) that only grows. For services.", nil},
		{"OnDisconnect", "run|stop|freeze", "What a host that is cut off from the cluster does with the unit once its lease has ended: let it run (as without this line), " +
			"stop it, or freeze its processes until the host is back.", nil},
		{"Network", "overlay", "The unit gets a network namespace and an address of its own in the cluster's network. Needs netd.", nil},
		{"Publish", "PORT:PORT[/PROTOCOL]...", "Ports of the host lead to ports of the unit, which has Network=overlay: 8080:80 or 53:53/udp. Units that publish one port go to different machines.", nil},
	}
}
