# shellcheck shell=sh disable=SC2034
# What the scripts beside this file share. They speak to fleet's API v1 as a program would that knows nothing of us: plain curl
# and jq. SOCKET is fleetd's socket, or URL its address; PLACE is a folder for answers. Read with ".".
SOCKET=${SOCKET:-/run/fleet.sock}
URL=${URL:-http://fleet}
PLACE=${PLACE:-$(mktemp -d)}

# api METHOD PATH [CURL-OPTION...]  prints the status; head and body of the answer are in $PLACE.
api() {
	method=$1 path=$2
	shift 2
	case $URL in http://fleet) set -- --unix-socket "$SOCKET" "$@" ;; esac
	curl --silent --show-error --max-time 30 --request "$method" --dump-header "$PLACE/head" --output "$PLACE/body" \
		--write-out '%{http_code}' "$@" "$URL$path"
}

# put PATH JSON  sends JSON as a PUT has to.
put() { api PUT "$1" --header 'Content-Type: application/json' --data "$2"; }

# is WANT GOT WHAT  ends the script unless both are the same.
is() {
	if [ "$1" != "$2" ]; then
		echo "$3: got $2, want $1" >&2
		[ ! -s "$PLACE/body" ] || cat "$PLACE/body" >&2
		exit 1
	fi
}

# body FILTER  applies a jq filter to the last answer.
body() { jq --raw-output "$1" "$PLACE/body"; }

# header NAME  prints a header of the last answer.
header() { tr -d '\r' <"$PLACE/head" | sed -n "s/^$1: //Ip"; }

# until_is WANT PATH FILTER  asks until the answer is WANT.
until_is() {
	tries=0
	while [ "$(api GET "$2")" != 200 ] || [ "$(body "$3")" != "$1" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 150 ] || is "$1" "$(body "$3")" "$2 after a long time"
		sleep 0.2
	done
}

# unit NAME  is a small service as JSON options, in $OPTIONS.
OPTIONS='[{"section":"Service","name":"ExecStart","value":"/bin/sleep infinity"}]'
