// Package sim runs the whole control plane of a cluster in one place: several machines, each with a fleetd (registration, agent,
// engine) and a fake systemd, over one store in memory. Nothing in it waits: time is a number, and everything that a real
// fleetd does in a goroutine is a task here, of which exactly one runs at a time, from one call to the outside to the next. What goes on when is
// a list of steps. A seed makes such a list, with crashes, cuts, pauses and users' wishes in it; a file holds one that is to be kept.
//
// What decides, writes and reads is the real thing: engine.State, agent.Agent, registry.Registry, kv.Memory. The loops around them
// (engine.Leader's and agent.Agent's Run, presence.go and depart.go of fleetd) are goroutines; here they are written a second time, step
// by step, in engine.go, agent.go, host.go and user.go. Who changes one of them changes the other.
//
// After every change of the store, and with every word to a systemd, the rules of check.go are asked. When the steps are over, all
// faults are healed, and the cluster must come to rest as settled.go says. What breaks a rule is a Bad, with the steps that led there.
//
//	go test ./functional/sim     # 500 seeds, the kept transcripts, and that the rules would notice
//	./build.sh sim 1-100000      # other seeds
//	FLEET_SIM_SEEDS=4711-4711 FLEET_SIM_TRACE=1 go test ./functional/sim -run TestSeeds -v
//
// A bad seed is cut down to the few steps that matter, and printed; saved as testdata/NAME.txt it is a test from then on. A step is a
// line: when, who, what. Words behind a # tell what came of it and are not read back.
//
//	hosts 3
//	1.000 h1 submit a.service launched run,v1   a user at h1's fleetd
//	1.020 h1.u1 go                              a task goes on to its next call of the store, after doing the one it waits in
//	1.030 h1.u1 go lost                         ... does it, but the answer is lost (fail: not done; late: done later; held: answer later)
//	1.500 h2 cut                                h2's fleetd does not reach the store (heal)
//	1.500 h2 deaf                               it does, and hears no answer (heal)
//	1.500 store down                            nobody does, and no lease ends (up)
//	1.500 store save                            a backup (restore: the store goes back to it, as a new cluster; confirm: it is to be obeyed)
//	1.500 h2 jump -20s                          its clock is set
//	2.000 h3 crash                              SIGKILL to fleetd (start, stop, restart; off and on: the host's power; freeze and thaw)
//	3.000 all run 5s                            everybody goes on undisturbed
package sim
