#!/usr/bin/env bash
# Everything one does with this tree: ./build.sh help. As root, each verb installs the Debian packages it lacks.
set -euo pipefail
shopt -s inherit_errexit # what fails in $(...) ends it there
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
export CGO_ENABLED=0
ldflags='-s -w' # without what only debuggers read: a third of the size; traces keep their lines

usage() {
	cat <<'EOF'
./build.sh                  build all commands into bin/
./build.sh check            format, vet, staticcheck, tests of the rooms: the one to run before a commit
./build.sh test             everything, from fast to slow; as root (boots hosts)
./build.sh up [N]           a cluster of N hosts (3) on this machine, running web@{1..3}.service; as root
./build.sh ctl ARGS...      fleetctl against that cluster
./build.sh enter HOST [CMD] a shell, or a command, on one of its hosts (h1, h2, ...)
./build.sh kill HOST        pull its plug
./build.sh boot HOST        switch it on again
./build.sh down             remove that cluster and all it made
./build.sh bench [PATTERN]  figures beside what bounds them: on hosts (as root), then those in memory that match
./build.sh fuzz [SECONDS|MINUTESm]  every fuzz target for that long (30), or all of them in so many minutes
./build.sh soak [MINUTES]   host tests, half an hour of random faults on hosts and 100,000 new seeds of the simulation, again and
                            again (60), until one fails; as root
./build.sh faults MINUTES [SEED]  only random faults on six hosts, and which promises they broke; as root
./build.sh sim FROM-TO      the simulation with these seeds, such as 1-100000
./build.sh image [FLAGS]    the OS image, in .cache/image/out; --help lists the flags; as root
./build.sh tree [FLAGS]     only its root tree, which boots in nspawn too; prints the folder
./build.sh deb [VERSION]    Debian packages of all that install would place, in .cache/deb
./build.sh install DESTDIR  binaries, units and documents, as a package would place them
EOF
}

say() { printf '%s\n' "$*" >&2; }
die() {
	say "build.sh: $*"
	exit 1
}

# need CMD:PACKAGE...  installs the packages whose command is not there.
need() {
	local pair missing=()
	for pair; do
		command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
	done
	((${#missing[@]})) || return 0
	((EUID == 0)) || die "this machine lacks ${missing[*]}: run 'apt-get install ${missing[*]}' as root"
	command -v apt-get >/dev/null || die "this machine lacks ${missing[*]}, and has no apt-get to install them"
	say "installing ${missing[*]}"
	# The lists may be missing or old: they are fetched only if it does not work without.
	apt_install "${missing[@]}" >/dev/null 2>&1 ||
		{ apt-get update -qq && apt_install "${missing[@]}" >/dev/null; } >&2 ||
		die "apt-get could not install ${missing[*]}"
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "$@"
}

need_hosts() {
	((EUID == 0)) || die "hosts are booted by root only: run 'sudo ./build.sh ${verb}'"
	need systemd-nspawn:systemd-container nft:nftables ip:iproute2 nsenter:util-linux
	need_tree
}

# The commands there are, of those this project has.
commands() {
	local dir
	for dir in fleetd fleetd/fleet-guard fleetctl netd update-engine image/cloudconfig/cloud-config; do
		[[ ! -e $dir/main.go ]] || echo "./$dir"
	done
}

build() {
	local list
	mapfile -t list < <(commands)
	mkdir -p bin
	go build -trimpath -ldflags="$ldflags" -o bin/ "${list[@]}"
}

# The tool behind up, down and the verbs between; it is never installed.
cluster() {
	go build -trimpath -o bin/cluster ./functional/host/cluster
	local tool=$PWD/bin/cluster
	export FLEETCTL=$PWD/bin/fleetctl EXAMPLES=$PWD/units/examples BUILD=${BASH_SOURCE[0]}
	# Files that the user names are meant from where the user is.
	cd "$caller"
	exec "$tool" "$@"
}

# plugins DIR  builds the CNI plugins that go.mod names, through which netd gives units and containers their addresses.
plugins() {
	local list
	mapfile -t list < <(go list tool | grep '^github.com/containernetworking/plugins/')
	mkdir -p "$1"
	go build -trimpath -ldflags="$ldflags" -o "$1/" "${list[@]}"
}

# complete SHELL FILE  writes fleetctl's completion for that shell.
complete() {
	mkdir -p "${2%/*}"
	bin/fleetctl completion "$1" >"$2"
}

install_to() {
	local dest=$1 f
	[[ -n $dest ]] || die "install needs a folder: ./build.sh install DESTDIR ('/' for this machine)"
	build
	for f in $(commands); do
		install -D -m 755 "bin/${f##*/}" "$dest/usr/bin/${f##*/}"
	done
	plugins "$dest/usr/lib/cni"
	for f in units/*.service units/*.socket units/*.target units/*.path; do
		install -D -m 644 "$f" "$dest/usr/lib/systemd/system/${f#units/}"
	done
	# Scripts, cloud-configs and drop-ins of old say fleet.service, also before anybody has enabled ours.
	ln -sf fleetd.service "$dest/usr/lib/systemd/system/fleet.service"
	for f in units/sysusers.d/*.conf; do
		install -D -m 644 "$f" "$dest/usr/lib/sysusers.d/${f##*/}"
	done
	for f in units/logind.conf.d/*.conf; do
		install -D -m 644 "$f" "$dest/usr/lib/systemd/logind.conf.d/${f##*/}"
	done
	for f in units/*.target.d/*.conf; do
		install -D -m 644 "$f" "$dest/usr/lib/systemd/system/${f#units/}"
	done
	for f in units/dbus-1/*.conf; do
		install -D -m 644 "$f" "$dest/usr/share/dbus-1/system.d/${f##*/}"
	done
	for f in units/examples/*; do
		install -D -m 644 "$f" "$dest/usr/share/doc/fleet/examples/${f##*/}"
	done
	for f in docs/man/*; do
		install -D -m 644 "$f" "$dest/usr/share/man/man${f##*.}/${f##*/}"
	done
	complete bash "$dest/usr/share/bash-completion/completions/fleetctl"
	complete zsh "$dest/usr/share/zsh/vendor-completions/_fleetctl"
	complete fish "$dest/usr/share/fish/vendor_completions.d/fleetctl.fish"
	for f in README.md LICENSE docs/*.md; do
		[[ ! -e $f ]] || install -D -m 644 "$f" "$dest/usr/share/doc/fleet/${f##*/}"
	done
}

need_tree() {
	((EUID == 0)) || die "the image is made by root only: run 'sudo ./build.sh ${verb}'"
	need mmdebstrap:mmdebstrap flock:util-linux
	[[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || need debian-archive-keyring:debian-archive-keyring
}

need_image() {
	need_tree
	need mkfs.erofs:erofs-utils /sbin/veritysetup:cryptsetup-bin objcopy:binutils /sbin/mkfs.ext4:e2fsprogs zstd:zstd
	[[ -e /usr/lib/systemd/boot/efi/linuxx64.efi.stub ]] || need linuxx64.efi.stub:systemd-boot-efi
}

# image ARGS...  makes the OS image. What did not change since the last build is taken from .cache/image. One at a time: tests call it too.
image() {
	need_image
	make_image "$@"
}

# tree ARGS...  makes only the image's root tree, and prints where it is.
tree() {
	need_tree
	make_image --tree "$@"
}

make_image() (
	dir=.cache/image
	mkdir -p "$dir"
	exec {lock}>"$dir/lock"
	flock "$lock"
	rm -rf "$dir/install"
	install_to "$dir/install" >&2
	go build -trimpath -ldflags="$ldflags" -o "$dir/init" ./image/init
	go run ./image/mkimage --install "$dir/install" --init "$dir/init" "$@"
)

# vm_tests ARGS...  the image in QEMU, and the Debian packages.
vm_tests() {
	need qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils /sbin/dnsmasq:dnsmasq-base genisoimage:genisoimage mcopy:mtools /sbin/mkfs.vfat:dosfstools \
		sbsign:sbsigntool faketime:faketime openssl:openssl
	[[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ]] || need OVMF_CODE_4M.fd:ovmf
	local tree
	image --version 0.1.0
	image --version 0.2.0
	tree=$(tree)
	deb 0.1.0 .cache/deb/old
	deb 0.2.0 .cache/deb/new
	FLEET_HOSTS=required FLEET_INSTALL=$PWD/.cache/image/install FLEET_IMAGE=$PWD/.cache/image/out FLEET_HOST_TREE=$tree FLEET_DEB=$PWD/.cache/deb \
		FLEET_LOGS=${FLEET_LOGS:-$PWD/.cache/logs} tests ./functional/vm/... -timeout 45m -count=1 "$@"
}

# deb [VERSION] [OUT]  makes the packages; the time in them is that of the last commit, unless SOURCE_DATE_EPOCH says another.
deb() {
	local dir=.cache/deb
	need dpkg-deb:dpkg
	rm -rf "$dir/install" "${2:-$dir}"/*.deb
	install_to "$dir/install"
	SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1)} sh image/deb.sh "$dir/install" "${2:-$dir}" "${1:-0.1.0}"
	ls -l "${2:-$dir}"/*.deb
}

check_format() {
	local files
	files=$(gofmt -l .)
	[[ -z $files ]] || die "these files are not formatted; run 'gofmt -w' on them:"$'\n'"$files"
}

check_shell() {
	shellcheck build.sh .ci/run functional/host/script/*.sh image/*.sh image/files/usr/lib/fleet/* image/files/usr/sbin/*
	shellcheck --external-sources --source-path=SCRIPTDIR functional/curl/*.sh
}

# tests ARGS...  is go test, which tells of packages and of failures. What failed in ./build.sh test is run once more, alone, unless a race was
# seen or more than a few failed: two processors that boot hosts and emulate machines at once are late at times. The report names each test that
# needed that, as what it is: one to be mended.
again=.cache/again
tests() {
	local flags=()
	if ((${rerun:-0})); then
		mkdir -p "$again"
		flags=(--rerun-fails=1 --rerun-fails-max-failures=4 --rerun-fails-abort-on-data-race --rerun-fails-run-root-test \
			--rerun-fails-report="$(mktemp "$again/XXXXXX")")
	fi
	go tool gotestsum --format=pkgname-and-test-fails --format-hide-empty-pkg --format-icons=text --packages="$1" "${flags[@]}" -- "${@:2}"
}

# rooms  lists the packages whose tests need nothing but Go, one a line.
rooms() { go list ./... | grep -v '/functional/'; }

# step NAME CMD...  runs one part of a test run, whatever became of those before it, and remembers how it went.
summary=() failed=0
step() {
	local name=$1 begin=$SECONDS result=ok
	shift
	say "=== $name"
	# Not "if (...)": bash ignores set -e in a subshell that stands in a condition.
	set +e
	(
		set -e
		"$@"
	)
	local status=$?
	set -e
	if ((status)); then
		result=FAILED failed=1
	fi
	summary+=("$(printf '%-8s %5ds  %s' "$result" $((SECONDS - begin)) "$name")")
}

report() {
	say "=== summary"
	printf '%s\n' "${summary[@]}" >&2
	[[ -z $(cat "$again"/* 2>/dev/null) ]] || say "=== failed at first"$'\n'"$(cat "$again"/*)"
	return "$failed"
}

room_tests() { tests "$(rooms)" -timeout 15m; }

race_tests() { CGO_ENABLED=1 tests "$(rooms)" -race -timeout 20m; }

sim_tests() { tests ./functional/sim/... -timeout 10m; }

host_tests() {
	local tree
	tree=$(tree)
	FLEET_HOSTS=required FLEET_HOST_TREE=$tree FLEET_LOGS=${FLEET_LOGS:-$PWD/.cache/logs} \
		tests ./functional/host/... -timeout 40m -count=1 "$@"
}

check() {
	# As root the tests of netd use the real kernel, in namespaces of their own.
	((EUID != 0)) || need nft:nftables ip:iproute2 podman:podman runc:runc
	need dbus-daemon:dbus-daemon
	step format check_format
	step vet go vet ./...
	step staticcheck go tool staticcheck ./...
	step 'tests of the rooms' room_tests
}

test_all() {
	need_hosts
	need gcc:gcc shellcheck:shellcheck
	[[ -e /usr/include/stdlib.h ]] || need /usr/include/stdlib.h:libc6-dev
	rm -rf "$again"
	rerun=1
	step build build
	step shellcheck check_shell
	check
	step 'tests with the race detector' race_tests
	[[ -z $(ls functional/sim/*.go 2>/dev/null) ]] || step simulation sim_tests
	step 'tests on hosts' host_tests
	step 'the image in QEMU, and packages' vm_tests
	report
}

up() {
	need_hosts
	local tree
	tree=$(tree)
	cluster up "${1:-3}" "$tree"
}

bench() {
	need_hosts
	local tree list
	tree=$(tree)
	mapfile -t list < <(rooms)
	go run ./functional/bench --tree "$tree"
	say "=== the image, emulated"
	tests() { go test "${@:2}" "$1"; } # whose output tells figures
	vm_tests -v -parallel 1 -run '^(TestAHostsLife|TestCloudConfigFrom)' | sed -n 's/.*figure: //p'
	go test -run '^$' -bench "${1:-.}" -timeout 60m "${list[@]}"
}

# fuzz_one PKG TARGET SECONDS  is one target. One that hangs is ended, and has failed. Where the time is over in the middle of an input, go test
# sometimes calls that "context deadline exceeded" and a failure (Go 1.26): nothing was found then, and no input was written.
fuzz_one() {
	local out status=0
	out=$(mktemp)
	timeout -k 10 $(($3 + 300)) go test -run '^$' -fuzz "^$2\$" -fuzztime "$3s" "$1" </dev/null >"$out" 2>&1 || status=$?
	cat "$out" >&2
	if ((status)) && grep -q '^ *context deadline exceeded$' "$out" && ! grep -q -e 'Failing input' -e 'panic:' "$out"; then
		status=0
	fi
	rm -f "$out"
	return "$status"
}

fuzz() {
	local seconds=${1:-30} pkg target targets=()
	while read -r pkg; do
		while read -r target; do
			targets+=("$pkg $target")
		done < <(go test -list '^Fuzz' "$pkg" | grep '^Fuzz')
	done < <(go list ./...)
	[[ $seconds != *m ]] || seconds=$((${seconds%m} * 60 / ${#targets[@]} + 1))
	for target in "${targets[@]}"; do
		read -r pkg target <<<"$target"
		step "$pkg $target" fuzz_one "$pkg" "$target" "$seconds"
	done
	report
}

# faults MINUTES [SEED]  breaks hosts at random for that long; a seed draws the same faults again.
faults() {
	need_hosts
	local tree
	tree=$(tree)
	FLEET_HOSTS=required FLEET_HOST_TREE=$tree FLEET_LOGS=${FLEET_LOGS:-$PWD/.cache/logs} FLEET_FAULTS=$1 FLEET_FAULTS_SEED=${2:-1} \
		go test -timeout "$(($1 + 30))m" -count=1 -v -run TestPromisesUnderFaults ./functional/host/faults
}

soak() {
	need_hosts
	local end=$((SECONDS + 60 * ${1:-60})) round=0
	while ((SECONDS < end)); do
		round=$((round + 1))
		say "=== round $round"
		host_tests -failfast
		faults 30 "$round"
		FLEET_SIM_SEEDS=$((100000 * round - 99999))-$((100000 * round)) go test -count=1 -timeout 0 -run TestSeeds ./functional/sim
		FLEET_SOAK=1 FLEET_CUTS=40 vm_tests -failfast
	done
}

# sudo may leave Go out of PATH.
PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || die "Go is not in PATH: install Go 1.26 or later from https://go.dev/dl/"
verb=${1:-build}
(($# == 0)) || shift
case $verb in
build) build ;;
check)
	check
	report
	;;
test) test_all ;;
up) up "$@" ;;
down | enter | kill | boot | ctl) cluster "$verb" "$@" ;;
bench) bench "$@" ;;
sim) FLEET_SIM_SEEDS=${1:?which seeds? ./build.sh sim FROM-TO} go test -count=1 -timeout 0 -run TestSeeds ./functional/sim ;;
fuzz) fuzz "$@" ;;
soak) soak "$@" ;;
faults) faults "${1:?for how many minutes? ./build.sh faults MINUTES [SEED]}" "${2:-1}" ;;
image) image "$@" ;;
tree) tree "$@" ;;
deb) deb "$@" ;;
install) install_to "${1:-}" ;;
help | -h | --help) usage ;;
*)
	usage >&2
	die "unknown verb $verb"
	;;
esac
