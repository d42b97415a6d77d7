#!/bin/sh
# What is refused, with which status and which body.
set -eu
. "$(dirname "$0")/lib.sh"
u=/fleet/v1/units/c-err.service

# refused STATUS WORD  looks at the last answer: an error body that says the status and, among others, the word.
refused() {
	is "$1" "$(body .error.code)" "code in the body"
	is 'application/json' "$(header Content-Type)" "content type"
	case $(body .error.message) in *"$2"*) ;; *) is "$2" "$(body .error.message)" "message" ;; esac
	case $(header Server) in fleetd/*) ;; *) is fleetd/VERSION "$(header Server)" "server" ;; esac
}
is 415 "$(api PUT $u --header 'Content-Type: text/plain' --data '{}')" "another content type"
refused 415 application/json
is 415 "$(api PUT $u --header 'Content-Type: application/json' --header 'Content-Type: application/json' --data '{}')" "two content types"
refused 415 ''
is 201 "$(api PUT $u --header 'Content-Type: application/json; charset=utf-8' --data "{\"options\":$OPTIONS}")" "a content type with a parameter"
is 400 "$(put $u 'no json')" "no JSON"
refused 400 decode
is 400 "$(put $u "{\"name\":\"other.service\",\"options\":$OPTIONS}")" "two names"
refused 400 other.service
is 400 "$(put $u '{"desiredState":"running"}')" "an unknown state, of a unit there is"
refused 400 running
is 400 "$(put /fleet/v1/units/c-new.service "{\"desiredState\":\"running\",\"options\":$OPTIONS}")" "an unknown state, of a new unit"
refused 400 running
is 400 "$(put /fleet/v1/units/c-bad.nonsense "{\"options\":$OPTIONS}")" "an unknown type"
refused 400 nonsense
is 400 "$(put $u '{"options":[{"section":"X-Fleet","name":"Global","value":"true"},{"section":"X-Fleet","name":"MachineOf","value":"a.service"}]}')" "options that exclude each other, in a replacement"
refused 400 MachineOf
is 400 "$(put /fleet/v1/units/c-t@.service "{\"desiredState\":\"launched\",\"options\":$OPTIONS}")" "a template launched when it is created"
refused 400 template
is 200 "$(api GET $u)" "the unit after all that"
is inactive "$(body .desiredState)" "its desired state"

is 404 "$(api GET /fleet/v1/nothing)" "an unknown path"
is 404 "$(api GET /fleet/v1/units/)" "a trailing slash"
is 405 "$(api POST /fleet/v1/units)" "an unknown method"
refused 405 ''
is 405 "$(api GET /)" "the root"
is 405 "$(api GET /fleet/v1)" "the root of the API"
is 405 "$(api POST /fleet/v1/discovery)" "POST of the discovery document"
is 204 "$(api DELETE $u)" "destruction"
