// Package engine decides which machine carries which unit. Plan is the whole decision over one snapshot; State is the same
// planner kept in memory, which thinks again only about what changed; Explain says why a unit has no machine. Leader runs one
// State on the machine that leads the cluster: watch, turn, commit.
//
// It writes nothing but placements and admissions, and those only through the Store it is given. It never reads a clock, a map's
// order or luck while it plans: the same snapshot gives the same decisions. fleetd's main builds a Leader, its API asks Explain.
//
// # The rules
//
// A unit whose target state is not inactive gets the least loaded machine that takes it (load: units placed there; of equals
// the lowest machine ID). A unit that has a machine keeps it as long as that machine may carry it; nothing is rebalanced. When it
// must move, its old copy runs on (handover) until the new one is observed running, except where the two units must not run
// together: then the old copy goes at once. Where no machine takes it, it stays as it is.
//
//   - MachineID, MachineMetadata: the machine must match. All keys, one of the values in a key.
//   - MachineOf: all peers are placed there. The unit follows its peers; when a peer is placed nowhere, neither is the unit.
//     Units that name each other are placed together or not at all.
//   - Conflicts: in both directions, with global units and old copies too. Of two that conflict on one machine already, the one
//     whose record was written last goes; of two global ones always the second by name, so that all machines carry the same.
//   - Publish: no two units that publish one port of the machine; otherwise as Conflicts.
//   - Replaces: the unit named is moved away from the machine to another that takes it. It never moves back beside its replacer. Where
//     following such options round in a circle would lead back (the two name each other), the option is ignored. Global
//     units are not replaced.
//   - Global: one placement on each machine that takes it, in name order, after the others. They ignore cordon, as monitoring must
//     run on a cordoned machine too. A leaving machine gets no new ones and keeps its own until its agent stops them,
//     for the units being moved away may lean on them. On a machine that is gone they stay placed: when it comes back, nothing restarts.
//   - Exclusive: one copy at most. The unit leaves a machine before it arrives at another; of a machine that is gone it is waited for until
//     systemd there must have stopped it. See exclusive.go.
//   - Many machines that vanish at once pull a brake: nothing is moved away from missing machines until enough are back. The first of
//     them are known by the leases of the others, which will end soon: nothing is moved from them either. See brake.go, doubt.go.
//   - Cordon: no new units. Leaving: no new units, its own are handed over. Templates are never placed.
package engine
