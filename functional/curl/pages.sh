#!/bin/sh
# A list longer than a page, read page by page; tokens that are not one.
set -eu
. "$(dirname "$0")/lib.sh"
count=${COUNT:-7} limit=${LIMIT:-3}

i=0
while [ "$i" -lt "$count" ]; do
	i=$((i + 1))
	is 201 "$(put "/fleet/v1/units/c-page$i.service" "{\"options\":$OPTIONS}")" "unit $i"
done

token='' seen='' pages=0
while :; do
	query=${token:+?nextPageToken=$token}
	is 200 "$(api GET "/fleet/v1/units$query")" "page $((pages + 1))"
	pages=$((pages + 1))
	[ "$(body '.units | length')" -le "$limit" ] || is "$limit" "$(body '.units | length')" "units on a page, at most"
	seen="$seen $(body '.units[].name' | grep '^c-page' || :)"
	token=$(body '.nextPageToken // empty')
	[ -n "$token" ] || break
	# jq's @base64d is no help with bytes: od shows limit and page, two little-endian numbers.
	is "$limit $((pages + 1))" "$(printf %s "$token" | tr '_-' '/+' | base64 -d | od -An -tu2 | awk '{print $1, $2}')" "what the token says"
done
want='' i=0
while [ "$i" -lt "$count" ]; do i=$((i + 1)) want="$want c-page$i.service"; done
# shellcheck disable=SC2086 # words
is "$(printf '%s\n' $want | sort)" "$(printf '%s\n' $seen | sort)" "units on all pages, each once"

for bad in EwBMLg== 'not%20base64' AAAAAA== MTIz; do
	is 400 "$(api GET "/fleet/v1/units?nextPageToken=$bad")" "token $bad"
	is 400 "$(body .error.code)" "code in the body"
done
is 400 "$(api GET '/fleet/v1/units?nextPageToken=AwACAA==&nextPageToken=AwACAA==')" "two tokens"
is 200 "$(api GET '/fleet/v1/machines?alt=json&prettyPrint=false')" "unknown parameters"

i=0
while [ "$i" -lt "$count" ]; do
	i=$((i + 1))
	is 204 "$(api DELETE "/fleet/v1/units/c-page$i.service")" "destruction of unit $i"
done
