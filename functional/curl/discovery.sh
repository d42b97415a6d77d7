#!/bin/sh
# A client that knows only the discovery document: it finds each method there, and calls it.
set -eu
. "$(dirname "$0")/lib.sh"

is 200 "$(api GET /fleet/v1/discovery)" "the document"
cp "$PLACE/body" "$PLACE/doc"
is 'fleet:v1 schema v1 rest' "$(body '"\(.id) \(.name) \(.version) \(.protocol)"')" "what it is of"
base=$(body .basePath)
is /fleet/v1/ "$base" "base path"

# path RESOURCE METHOD  is where a method is.
path() { jq --raw-output ".resources.$1.methods.$2 | \"\(.httpMethod) \(.path)\"" "$PLACE/doc"; }
is 'GET machines' "$(path Machines List)" "Machines.List"
is 'GET units' "$(path Units List)" "Units.List"
is 'GET units/{unitName}' "$(path Units Get)" "Units.Get"
is 'PUT units/{unitName}' "$(path Units Set)" "Units.Set"
is 'DELETE units/{unitName}' "$(path Units Delete)" "Units.Delete"
is 'GET state' "$(path UnitState List)" "UnitState.List"
for list in Machines Units UnitState; do
	where=$(path $list List)
	is 200 "$(api GET "$base${where#GET }?alt=json")" "$list.List"
	# Each key of the answer is one that the schema has.
	schema=$(jq --raw-output ".resources.$list.methods.List.response[\"\$ref\"]" "$PLACE/doc")
	is '' "$(jq --raw-output --slurpfile doc "$PLACE/doc" --arg s "$schema" 'keys - ($doc[0].schemas[$s].properties | keys) | join(" ")' "$PLACE/body")" "keys that $schema does not have"
done
