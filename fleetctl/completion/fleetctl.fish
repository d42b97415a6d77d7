# Completion of fleetctl for fish: put this file as fleetctl.fish into ~/.config/fish/completions.
function __fleetctl_complete
    set -l words (commandline -opc)
    set -e words[1]
    fleetctl __complete -- $words (commandline -ct) 2>/dev/null
end
complete -c fleetctl -f -a '(__fleetctl_complete)'
