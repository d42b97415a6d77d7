#compdef fleetctl
# Completion of fleetctl for zsh: put "source <(fleetctl completion zsh)" behind compinit into ~/.zshrc, or this file as _fleetctl
# into a folder of $fpath.
_fleetctl() {
	local -a found folders
	found=(${(f)"$(fleetctl __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
	folders=(${(M)found:#*/})
	found=(${found:#*/})
	compadd -a found
	compadd -S '' -a folders
}
if [[ $funcstack[1] == _fleetctl ]]; then
	_fleetctl "$@"
else
	compdef _fleetctl fleetctl
fi
