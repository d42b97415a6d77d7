#!/bin/sh
# Machines, and metadata set at run time in both forms of the value.
set -eu
. "$(dirname "$0")/lib.sh"

is 200 "$(api GET /fleet/v1/machines)" "machines"
is 'id primaryIP' "$(body '.machines[0] | keys - ["metadata"] | join(" ")')" "keys of a machine"
m=$(body '.machines[0].id')
is 32 "${#m}" "length of a machine ID"

# value KEY  is what the machine's metadata says now.
value() {
	is 200 "$(api GET /fleet/v1/machines)" "machines"
	jq --raw-output --arg m "$m" --arg k "$1" '.machines[] | select(.id == $m) | .metadata[$k] // "none"' "$PLACE/body"
}
patch() { api PATCH /fleet/v1/machines --data "$1"; }

is 204 "$(patch "[{\"op\":\"add\",\"path\":\"/$m/metadata/c-one\",\"value\":\"1\"},{\"op\":\"replace\",\"path\":\"/$m/metadata/c-two\",\"value\":{\"value\":\"2\"}}]")" "two keys set"
is 'application/json' "$(header Content-Type)" "content type of the answer"
is '' "$(cat "$PLACE/body")" "its body"
is '1 2' "$(value c-one) $(value c-two)" "metadata"

# All or nothing: the first operation is fine, the second is not.
for bad in '{"op":"test","path":"/M/metadata/k","value":"v"}' '{"op":"add","path":"/M/tags/k","value":"v"}' \
	'{"op":"add","path":"/M/metadata/sp ace","value":"v"}' '{"op":"add","path":"/M/metadata/k"}'; do
	bad=$(echo "$bad" | sed "s/M/$m/")
	is 400 "$(patch "[{\"op\":\"add\",\"path\":\"/$m/metadata/c-one\",\"value\":\"9\"},$bad]")" "operation $bad"
	is 400 "$(body .error.code)" "code in the body"
	[ -n "$(body .error.message)" ] || is text nothing "message in the body"
done
is 400 "$(patch '{')" "a body that is no JSON"
is 1 "$(value c-one)" "metadata after refused changes"

is 204 "$(patch "[{\"op\":\"remove\",\"path\":\"/$m/metadata/c-one\"},{\"op\":\"remove\",\"path\":\"/$m/metadata/c-two\"}]")" "two keys taken away"
is 'none none' "$(value c-one) $(value c-two)" "metadata"
is 204 "$(patch '[{"op":"add","path":"/ffffffffffffffffffffffffffffffff/metadata/k","value":"v"}]')" "a machine that is not there"
is 204 "$(patch '[{"op":"remove","path":"/ffffffffffffffffffffffffffffffff/metadata/k"}]')" "that key taken away"
