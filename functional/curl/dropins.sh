#!/bin/sh
# A program that never heard of drop-ins neither loses nor breaks those that others made.
set -eu
. "$(dirname "$0")/lib.sh"
t=/fleet/v1/units/c-drop@.service
u=/fleet/v1/units/c-drop@1.service
other='[{"section":"Service","name":"ExecStart","value":"/bin/sleep 1000"}]'

# Somebody else's work: a template with a drop-in.
is 201 "$(put $t "{\"options\":$OPTIONS,\"dropIns\":{\"c-drop@.service\":{\"10-nice.conf\":[{\"section\":\"Service\",\"name\":\"Nice\",\"value\":\"7\"}]}}}")" "template"

# It is read as the unit's own options, and can be written back as it was read.
is 200 "$(api GET $t)" "the template"
is "$OPTIONS" "$(jq -c .options "$PLACE/body")" "its options"
is 'currentState desiredState name options' "$(body 'keys | join(" ")')" "its keys"
is 204 "$(put $t "$(cat "$PLACE/body")")" "written back"

# An instance is a copy of the options, as fleetctl has always made it. It has its template's drop-in.
is 201 "$(put $u "{\"name\":\"c-drop@1.service\",\"options\":$OPTIONS}")" "instance"
is 204 "$(put $u '{"desiredState":"launched"}')" "start"
until_is active /fleet/v1/state/c-drop@1.service .systemdActiveState
is 7 "$(systemctl show --value --property=Nice c-drop@1.service)" "niceness"

# Another text, the same drop-in.
is 201 "$(put $u "{\"options\":$other,\"desiredState\":\"launched\"}")" "another text"
until_is launched $u .currentState
tries=0
until systemctl show --value --property=ExecStart c-drop@1.service | grep -q 'sleep 1000'; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] || is 'sleep 1000' '' "the new text"
	sleep 0.1
done
is 7 "$(systemctl show --value --property=Nice c-drop@1.service)" "niceness with another text"

# What is not this unit's is refused.
is 400 "$(put $u "{\"options\":$OPTIONS,\"dropIns\":{\"ssh.service\":{\"x.conf\":$OPTIONS}}}")" "another unit's folder"
is 400 "$(put $u "{\"options\":$OPTIONS,\"dropIns\":{\"c-drop@1.service\":{\"../x.conf\":$OPTIONS}}}")" "a path"

is 204 "$(api DELETE $u)" "destroyed"
is 204 "$(api DELETE $t)" "destroyed"
