#!/bin/sh
# The life of a unit: created, launched, seen, stopped, replaced, destroyed.
set -eu
. "$(dirname "$0")/lib.sh"
u=/fleet/v1/units/c-life.service

is 404 "$(api GET $u)" "an unknown unit"
is 409 "$(put $u '{"desiredState":"launched"}')" "an unknown unit without options"
is 201 "$(put $u "{\"name\":\"c-life.service\",\"options\":$OPTIONS}")" "creation"
is '' "$(cat "$PLACE/body")" "the body of a success"
is 200 "$(api GET $u)" "the unit"
is 'application/json' "$(header Content-Type)" "content type"
is inactive "$(body .desiredState)" "desired state of a unit created without one"
is inactive "$(body .currentState)" "its current state"
is "$OPTIONS" "$(jq -c .options "$PLACE/body")" "its options"
is 'currentState desiredState name options' "$(body 'keys | join(" ")')" "its keys, none of ours among them"

# What an old fleetctl start sends, and how it looks for success.
is 204 "$(put $u '{"desiredState":"launched","name":"c-life.service"}')" "desired state set"
until_is launched $u .currentState
machine=$(body .machineID)
until_is active /fleet/v1/state/c-life.service .systemdActiveState
is "$machine loaded running" "$(body '"\(.machineID) \(.systemdLoadState) \(.systemdSubState)"')" "its state"
is 40 "$(body '.hash | length')" "length of the hash"
is 200 "$(api GET "/fleet/v1/state?unitName=c-life.service&machineID=$machine")" "states by unit and machine"
is 1 "$(body '.states | length')" "states of that unit there"
is 200 "$(api GET "/fleet/v1/state?unitName=c-life.service&unitName=c-other.service")" "states by two units"
is 1 "$(body '.states | length')" "states of the first of them"
is 200 "$(api GET "/fleet/v1/state?unitName=c-other.service&unitName=c-life.service")" "states by two units, the other first"
is '{}' "$(jq -c . "$PLACE/body")" "states of that"
is 200 "$(api GET "/fleet/v1/state?machineID=ffffffffffffffffffffffffffffffff")" "states of no machine"
is '{}' "$(jq -c . "$PLACE/body")" "an empty list"

is 204 "$(put $u "{\"desiredState\":\"launched\",\"options\":$OPTIONS}")" "the same options and the same state"
is 204 "$(put $u "{\"desiredState\":\"loaded\",\"options\":$OPTIONS}")" "stop, with the same options"
until_is loaded $u .currentState
until_is inactive /fleet/v1/state/c-life.service .systemdActiveState

# The same options again are no change; others replace the unit, which is then inactive unless the request says more.
is 409 "$(put $u "{\"options\":$OPTIONS}")" "nothing to do"
is 201 "$(put $u '{"options":[{"section":"Service","name":"ExecStart","value":"/bin/sleep 1000"}]}')" "replacement"
until_is inactive $u .desiredState
until_is inactive $u .currentState
is 404 "$(api GET /fleet/v1/state/c-life.service)" "state of a unit that is nowhere"

is 204 "$(api DELETE $u)" "destruction"
is 404 "$(api DELETE $u)" "second destruction"
is 404 "$(api GET $u)" "the unit that was destroyed"

# The older path of the API is the same.
is 200 "$(api GET /v1-alpha/units)" "the list under its first path"
