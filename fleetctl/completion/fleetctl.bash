# Completion of fleetctl for bash: put "source <(fleetctl completion bash)" into ~/.bashrc, or this file into
# /usr/share/bash-completion/completions/fleetctl.
_fleetctl() {
	local line=${COMP_LINE:0:COMP_POINT} words cur ahead= breaks= c
	# Not COMP_WORDS: bash takes @, : and = for ends of words, which stand inside names of units. It replaces only what is behind
	# the last of them.
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	cur=${words[${#words[@]}-1]}
	for c in @ : =; do [[ $COMP_WORDBREAKS == *$c* ]] && breaks+=$c; done
	[[ $breaks ]] && ahead=${cur%"${cur##*[$breaks]}"}
	local IFS=$'\n'
	COMPREPLY=($(fleetctl __complete -- "${words[@]:1}" 2>/dev/null))
	COMPREPLY=("${COMPREPLY[@]#"$ahead"}")
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}
complete -F _fleetctl fleetctl
