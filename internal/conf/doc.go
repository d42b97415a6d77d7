// Package conf reads a daemon's configuration from its file, the environment and the command line, strictly: what it does
// not know or cannot read is an error that says where it stands and what to do. One table of keys, made by the daemon, says
// what there is; the same word is a line in the file (agent_ttl = 10s), a variable (FLEET_AGENT_TTL) and a flag (--agent-ttl).
// It reads no file by itself; only main packages call it.
package conf
