package fleettest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/functional/host"
)

func (r *rig) linesOfSteps() {
	h := r.Host(1)
	r.write(h, map[string]string{"o-a.service": service(fixed(h)), "o-b.service": service(fixed(h)), "o-g.service": service("[X-Fleet]\nGlobal=true\n")})
	at := " on " + legend(h) + "\n"
	r.prints(0, "Unit o-a.service inactive\nUnit o-b.service inactive", nil, "submit", "o-a.service", "o-b.service")
	r.prints(0, "Unit o-a.service loaded"+at+"Unit o-b.service loaded"+at, nil, "load", "o-a.service", "o-b.service")
	r.prints(0, "Unit o-a.service launched"+at+"Unit o-b.service launched"+at, nil, "start", "o-a.service", "o-b.service")
	r.prints(0, "Unit o-a.service loaded"+at+"Unit o-b.service loaded"+at, []string{"Successfully stopped units [o-a.service o-b.service]."}, "stop", "o-a.service", "o-b.service")
	r.prints(0, "Unit o-a.service launched"+at, nil, "restart", "o-a.service") // from loaded it is a start
	r.prints(0, "Unit o-a.service launched"+at, nil, "restart", "o-a.service")
	r.prints(0, "Unit o-a.service inactive\nUnit o-b.service inactive", []string{"Successfully unloaded units [o-a.service o-b.service]."}, "unload", "o-a.service", "o-b.service")
	r.prints(0, "", []string{"Unable to restart unit o-a.service in state inactive"}, "restart", "o-a.service")
	r.prints(0, "Destroyed o-a.service\nDestroyed o-b.service", nil, "destroy", "o-a.service", "o-b.service")
	// A global unit is told of once, and is on every machine then.
	r.prints(0, "Triggered global unit o-g.service load", nil, "load", "o-g.service")
	r.prints(0, "Triggered global unit o-g.service start", nil, "start", "o-g.service")
	if n := len(r.places()["o-g.service"]); n != len(r.Hosts()) {
		r.t.Errorf("after its start it is on %d machines", n)
	}
	r.prints(0, "Triggered global unit o-g.service stop", []string{"Successfully stopped units [o-g.service]."}, "stop", "o-g.service")
	r.prints(0, "Triggered global unit o-g.service unload", []string{"Successfully unloaded units [o-g.service]."}, "unload", "o-g.service")
	r.prints(0, "Destroyed o-g.service", nil, "destroy", "o-g.service")
}

func (r *rig) waitsOrNot() {
	h := r.Host(1)
	r.write(h, map[string]string{
		"b-a.service": service(fixed(h)), "b-slow.service": "[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart=/bin/sleep infinity\n" + fixed(h),
		"b-once.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n" + fixed(h), "b-late.service": "[Service]\nType=exec\nExecStartPre=/bin/sleep 3\nExecStart=/bin/sleep infinity\n" + fixed(h),
		"b-g.service": service("[X-Fleet]\nGlobal=true\n"),
	})
	r.prints(0, "Triggered unit b-a.service start", nil, "start", "--no-block", "b-a.service")
	r.once("b-a.service")
	r.prints(0, "", nil, "start", "--no-block", "b-a.service")
	r.prints(0, "Triggered unit b-a.service stop", nil, "stop", "--no-block", "b-a.service")
	r.told(h, "b-a.service", "loaded inactive dead")
	r.prints(0, "Triggered unit b-a.service unload", nil, "unload", "--no-block", "b-a.service")
	r.prints(0, "Triggered unit b-a.service load", nil, "load", "b-a.service", "--no-block")
	r.prints(0, "Triggered global unit b-g.service start", nil, "start", "--no-block", "b-g.service")
	r.prints(0, "Destroyed b-a.service\nDestroyed b-g.service", nil, "destroy", "--no-block", "b-a.service", "b-g.service")
	r.wait("both to be gone", func() error {
		at := r.places()
		return need(len(at["b-a.service"])+len(at["b-g.service"]) == 0, fmt.Sprint(at))
	})
	// A unit that is destroyed is in the list of states until its machine has stopped it.
	r.write(h, map[string]string{"b-stops.service": service("ExecStop=/bin/sh -c 'until test -e /run/b-stop; do sleep 0.1; done'\nTimeoutStopSec=infinity\n" + fixed(h))})
	r.ctl(h, "start", "b-stops.service")
	r.prints(0, "Destroyed b-stops.service", nil, "destroy", "--no-block", "b-stops.service")
	r.told(h, "b-stops.service", "loaded deactivating stop")
	if out := r.ctl(h, "list-unit-files", "--no-legend", "--fields=unit"); strings.Contains(out, "b-stops") {
		r.t.Errorf("the cluster still knows it: %s", out)
	}
	h.Must(r.t, "touch", "/run/b-stop")
	r.told(h, "b-stops.service", "not told")
	h.Must(r.t, "rm", "/run/b-stop")
	// A unit that never gets there: as many times two seconds as one likes. It is where it was sent all the same.
	r.prints(1, "", []string{"Error waiting for units:", "b-slow.service"}, "start", "--block-attempts=1", "b-slow.service")
	r.told(h, "b-slow.service", "loaded activating start")
	// In fleet both were failures of start: what ends well at once, and what takes longer than two seconds.
	at := " launched on " + legend(h) + "\n"
	r.prints(0, "Unit b-once.service"+at+"Unit b-late.service"+at, nil, "start", "b-once.service", "b-late.service")
}

func (r *rig) reachOfReplace() {
	h := r.Host(1)
	at := " on " + legend(h)
	round := 0
	// next writes another text, and says which one.
	next := func() string {
		round++
		r.write(h, map[string]string{"p-a.service": service(fmt.Sprintf("Environment=ROUND=%d\n", round) + fixed(h))})
		return fmt.Sprintf("ROUND=%d", round)
	}
	holds := func(want string) {
		r.t.Helper()
		if text := r.ctl(h, "cat", "p-a.service"); !strings.Contains(text, want) {
			r.t.Errorf("want %s: %s", want, text)
		}
	}
	first := next()
	r.prints(0, "Unit p-a.service inactive", nil, "submit", "p-a.service")
	r.prints(0, "Unit p-a.service is the same in the registry, nothing to replace", nil, "submit", "--replace", "p-a.service")
	second := next()
	r.prints(0, "", []string{"WARNING:"}, "submit", "p-a.service")
	holds(first)
	r.prints(0, "Unit p-a.service inactive", nil, "submit", "--replace", "p-a.service")
	holds(second)
	third := next()
	r.prints(0, "Unit p-a.service loaded"+at, nil, "load", "--replace", "p-a.service")
	fourth := next()
	r.prints(0, "", []string{"Warning:", "load --replace"}, "submit", "--replace", "p-a.service")
	holds(third)
	r.prints(0, "Unit p-a.service launched"+at, nil, "start", "--replace", "p-a.service")
	holds(fourth)
	next()
	for _, c := range []string{"submit", "load"} {
		r.tryCtl(h, c, "--replace", "p-a.service")
		holds(fourth)
	}
	if env := r.property(h, "p-a.service", "Environment"); env != fourth {
		r.t.Errorf("it runs with %s", env)
	}
	h.Must(r.t, "rm", "/root/units/p-a.service")
	r.prints(1, "", []string{"there is no local file"}, "start", "--replace", "p-a.service")
}

func (r *rig) looksAtUnits() {
	h, other := r.Host(1), r.Host(2)
	// They talk when they are told to, which is after systemd has told of their start.
	const talks = "/bin/sh -c 'until test -e /run/v-talk; do sleep 0.1; done; echo one; echo two; exec sleep infinity'"
	talk := func(where string) string {
		return "[Unit]\nDescription=Talks as %n\n# a comment\n[Service]\nExecStart=" + talks + "\n\n[Unit]\nDocumentation=man:true\n" + where
	}
	r.write(h, map[string]string{
		"v-a.service": talk(fixed(h)), "v-b.service": talk(fixed(other)), "v-d.service": service(fixed(h)),
		"v-d.service.d/10-one.conf": "[Service]\nNice=1\n", "v-d.service.d/20-two.conf": "[Service]\nNice=2\n",
	})
	r.ctl(h, "start", "v-a.service", "v-b.service", "v-d.service")
	// Comments go, sections are put together; nothing is added.
	r.prints(0, "[Unit]\nDescription=Talks as %n\nDocumentation=man:true\n\n[Service]\nExecStart="+talks+"\n\n[X-Fleet]\nMachineID="+h.MachineID, nil, "cat", "v-a")
	for u, at := range map[string]*host.Host{"v-a.service": h, "v-b.service": other} {
		r.wait("the log of its start", func() error {
			out, _, _ := r.tryCtl(h, "journal", u)
			return need(strings.Contains(out, "Started "+u), out)
		})
		at.Must(r.t, "touch", "/run/v-talk")
	}
	r.wait("both units' lines", func() error {
		out, _, _ := r.tryCtl(h, "journal", "--output=cat", "--lines", "20", "v-a.service", "v-b.service")
		return need(strings.Count(out, "two") == 2, out)
	})
	// Like journalctl, the last lines first thought of; of a unit anywhere, in its formats.
	for _, u := range []string{"v-a", "v-b.service"} {
		r.prints(0, "two", nil, "journal", "--lines=1", "--output", "cat", u)
		out := r.ctl(h, "journal", "--lines=1", "-o", "json", "--sudo", u)
		var line map[string]any
		if err := json.Unmarshal([]byte(out), &line); err != nil || line["MESSAGE"] != "two" {
			r.t.Errorf("as JSON: %v, %s", err, out)
		}
		if out := r.ctl(h, "journal", u); !strings.Contains(out, "sh[") || !strings.Contains(out, ": one\n") {
			r.t.Errorf("as short: %s", out)
		}
	}
	out, text, code := r.tryCtl(h, "status", "v-a.service", "v-b.service", "--ssh-port=22")
	blocks := strings.Split(out, "\n\n● v-b.service - Talks as v-b.service\n")
	if code != 0 || text != "" || len(blocks) != 2 || !strings.HasPrefix(out, "● v-a.service - Talks as v-a.service\n") || !strings.Contains(blocks[1], "Active: active (running) since") ||
		!strings.Contains(blocks[1], "Machine: "+legend(other)) || !strings.Contains(blocks[1], ": two\n") {
		r.t.Errorf("status: %d %s%s", code, out, text)
	}
	if out := r.ctl(h, "status", "v-d.service"); !strings.Contains(out, "Drop-In: v-d.service.d\n             └─10-one.conf, 20-two.conf\n") {
		r.t.Errorf("status of a unit with drop-ins: %s", out)
	}
	r.ctl(h, "stop", "v-a.service")
	if out, _, code := r.tryCtl(h, "status", "v-a.service", "v-b.service"); code != 3 || !strings.Contains(out, "○ v-a.service") || !strings.Contains(out, "● v-b.service") {
		r.t.Errorf("status of one that is stopped: %d %s", code, out)
	}
	if out := r.ctl(h, "journal", "-n", "all", "-o", "cat", "-p", "info", "--since=-2h", "v-b.service"); !strings.HasSuffix(out, "\none\ntwo") {
		r.t.Errorf("the whole journal: %s", out)
	}
	for _, m := range r.Hosts() {
		m.Must(r.t, "rm", "/run/v-talk")
	}
}

// textsOfOld: the cluster and systemd see the same, whatever the file looked like.
func (r *rig) textsOfOld() {
	h := r.Host(1)
	where := "MachineID=" + h.MachineID
	r.write(h, map[string]string{
		"t-odd.service": "; first\n# second\n[Service]\nExecStart=/bin/sleep \\\n  infinity\n\n  [Install]  \n\n[Service]\n  Environment = A=1  \n; [Unit]\n[X-Fleet]\n" + where + "\n\n\n",
		// Specifiers of [X-Fleet] are fleet's, all others systemd's.
		"t-p@.service": service("Environment=\"S=%n %N %p %i %%\"\n[X-Fleet]\nMachineOf=%p-base.service\nConflicts=%p@not-%i.service\n"), "t-p-base.service": service("[X-Fleet]\n" + where + "\n"),
		"t-many.service": service("[X-Fleet]\nMachineMetadata=\"disk=hdd\" \"disk=ssd\"\nConflicts=x-*.service y-?.service\nConflicts=\"z.service\" \"z[0-9].service\"\n"),
		"t-noeq.service": "[Service]\nExecStart\n", "t-after.service": "[Service] x\nExecStart=/bin/true\n", "t-empty.service": "",
	})
	r.ctl(h, "start", "t-odd.service", "t-p-base.service", "t-p@1.service", "t-many.service")
	r.prints(0, "[Service]\nExecStart=/bin/sleep \\\n  infinity\nEnvironment=A=1\n\n[X-Fleet]\n"+where, nil, "cat", "t-odd.service")
	if env := r.property(h, "t-odd.service", "Environment"); env != "A=1" {
		r.t.Errorf("its environment is %s", env)
	}
	if out, _ := h.Run(r.ctx, "systemctl", "is-enabled", "t-odd.service"); strings.TrimSpace(out) != "linked-runtime" {
		r.t.Errorf("an empty [Install] makes it %s", out) // as if it were not there
	}
	if env := r.property(h, "t-p@1.service", "Environment"); !strings.Contains(env, "S=t-p@1.service t-p@1 t-p 1 %") {
		r.t.Errorf("systemd made of specifiers %s", env)
	}
	r.onHost(h.Name, "t-p@1.service")
	for _, bad := range []string{"t-noeq.service", "t-after.service"} {
		r.prints(1, "", []string{"Error creating units:", bad + ":"}, "submit", bad)
	}
	r.prints(1, "", []string{"t-empty.service", "no option in it"}, "submit", "t-empty.service") // to the API of old it was no unit either
	// Names that the API takes, and those it does not.
	for _, bad := range []string{"t-x.nonsense.", "@t.service", "t x.service", "t-@1.mount", strings.Repeat("t", 260)} {
		r.write(h, map[string]string{"t-x.service": service("")})
		r.prints(1, "", []string{"Error creating units:"}, "submit", bad)
	}
}

func (r *rig) refusedTogether() {
	h := r.Host(1)
	units := map[string]string{}
	for name, lines := range map[string]string{
		"f-01": "MachineOf=a.service|Conflicts=a.*", "f-02": "MachineOf=a.service|Replaces=a.service", "f-03": "MachineID=" + h.MachineID + "|MachineOf=a.service",
		"f-04": "MachineID=" + h.MachineID + "|Conflicts=a.service", "f-05": "MachineID=" + h.MachineID + "|Global=true", "f-06": "MachineID=" + h.MachineID + "|Replaces=a.service",
		"f-07": "Global=yes|MachineOf=a.service", "f-08": "Global=1|Replaces=a.service", "f-09": "Conflicts=a.service|Replaces=b.service", "f-10": "X-ConditionMachineOf=a.service|X-Conflicts=a.service",
		"f-20": "MachineID=" + h.MachineID + "|MachineMetadata=disk=ssd", "f-21": "Global=on|MachineMetadata=disk=ssd", "f-22": "Global=T|Conflicts=a.service",
		"f-23": "MachineOf=a.service|Conflicts=b.service", "f-24": "MachineOf=a.service|Replaces=b.service", "f-25": "Global=true|Global=false|MachineOf=a.service", "f-26": "MachineOf=\"a.service\" \"b.service\"",
	} {
		units[name+".service"] = asks(lines)
	}
	r.write(h, units)
	for name := range units {
		if name < "f-20" {
			r.prints(1, "", []string{"Error creating units:", name}, "submit", name)
			// Whoever comes by the API is told the same.
			body, err := json.Marshal(map[string]any{"options": wire(units[name])})
			r.must(err)
			if code := h.Must(r.t, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", "/run/fleet.sock", "-X", "PUT", "-H", "Content-Type: application/json", "-d", string(body),
				"http://fleet/fleet/v1/units/"+name); code != "400" {
				r.t.Errorf("PUT of %s: %s", name, code)
			}
		} else {
			r.prints(0, "Unit "+name+" inactive", nil, "submit", name)
		}
	}
}

// wire are the options of a text that needs no more than lines.
func wire(text string) (options []map[string]string) {
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok {
			options = append(options, option(section, name, value))
		} else {
			section = strings.Trim(line, "[]")
		}
	}
	return options
}

func (r *rig) aliasesAndNames() {
	h := r.Host(1)
	aka := service("[Install]\nAlias=a-two.service\n" + fixed(h))
	r.write(h, map[string]string{"a-one.service": aka, "a-two.service": service(fixed(h)), "a-three.service": aka})
	r.ctl(h, "start", "a-one.service")
	r.prints(1, "", []string{"a-two.service is an alias of unit a-one.service", "take that line out"}, "start", "a-two.service")
	if out := h.Must(r.t, "systemctl", "is-active", "a-two.service"); out != "active" {
		r.t.Errorf("by its alias it is %s", out)
	}
	r.ctl(h, "destroy", "a-one.service")
	r.ctl(h, "start", "a-two.service")
	r.prints(1, "", []string{"Alias=a-two.service", "fleetctl destroy a-two.service"}, "start", "a-one.service")
	r.prints(1, "", []string{"Alias=a-two.service"}, "submit", "a-three.service")
}

// spread: what is started at once goes to all machines alike.
func (r *rig) spread() {
	h := r.Host(1)
	r.write(h, map[string]string{"e@.service": service("")})
	r.ctl(h, append([]string{"start"}, instances("e", 6)...)...)
	on := map[string]int{}
	for _, at := range r.once(instances("e", 6)...) {
		on[at.Name]++
	}
	if on["h1"] != 3 || on["h2"] != 3 {
		r.t.Errorf("six units are on %v", on)
	}
}

// keptOn looks at a unit whose machine is gone, and that may go nowhere else: lists say where it is, and no address of a machine that has none.
func (r *rig) keptOn(h, gone *host.Host, unit string) {
	r.t.Helper()
	out := r.ctl(h, "list-unit-files", "--no-legend", "--fields=unit,dstate,target")
	if want := unit + " launched " + short(gone) + "..."; !slices.Contains(strings.Split(words(out), "\n"), want) {
		r.t.Errorf("%q is not in %s", want, out)
	}
	if out := r.ctl(h, "list-units", "--no-legend", "--fields=unit"); slices.Contains(strings.Fields(out), unit) {
		r.t.Errorf("a machine that is gone tells of %s", unit)
	}
}

func (r *rig) metadataByHand() {
	h, other := r.Host(1), r.Host(2)
	r.begin(map[string]string{"y-db.service": asks("MachineMetadata=role=db")})
	if on := r.atRest("y-db.service"); len(on) != 0 {
		r.t.Errorf("without such a machine there runs %v", on)
	}
	r.prints(0, "Machine "+short(other)+"... has metadata disk=ssd,role=db,x=1", nil, "set-metadata", short(other), "role=db", "x=1")
	r.onHost(other.Name, "y-db.service")
	r.prints(0, "Machine "+short(h)+"... has metadata disk=ssd,role=db", nil, "set-metadata", h.Name, "role=db")
	r.prints(0, "Machine "+short(other)+"... has metadata disk=ssd", nil, "set-metadata", other.IP, "role-", "x-")
	r.onHost(h.Name, "y-db.service")
	r.prints(1, "", []string{`"nobody"`}, "set-metadata", "nobody", "role=db")
	r.ctl(h, "set-metadata", short(h), "role-")
}

// examplesOfOld are files as fleet's and CoreOS's pages showed them: units with a sidekick that announces them, and a host's document.
func (r *rig) examplesOfOld() {
	h := r.Host(1)
	docker := "[Unit]\nDescription=My web server\nAfter=docker.service\nRequires=docker.service\n\n[Service]\nTimeoutStartSec=0\nExecStartPre=-/usr/bin/docker kill web%i\nExecStartPre=-/usr/bin/docker rm web%i\n" +
		"ExecStartPre=/usr/bin/docker pull example/web\nExecStart=/usr/bin/docker run --rm --name web%i -p 80:80 example/web \\\n  /usr/sbin/apache2ctl -D FOREGROUND\nExecStop=/usr/bin/docker stop web%i\n\n[X-Fleet]\nConflicts=j-web@*.service\n"
	sidekick := "[Unit]\nDescription=Announce j-app@%i\nBindsTo=j-app@%i.service\nAfter=j-app@%i.service\n\n[Service]\nEnvironmentFile=-/etc/environment\n" +
		"ExecStart=/bin/sh -c \"while true; do echo announce ${COREOS_PUBLIC_IPV4}:%H; sleep 45;done\"\nExecStop=/bin/echo gone\n\n[X-Fleet]\nMachineOf=j-app@%i.service\n"
	r.write(h, map[string]string{
		"j-web@.service": docker, "j-app-sidekick@.service": sidekick,
		"j-app@.service":  "[Unit]\nDescription=App\n\n[Service]\nExecStart=/bin/bash -c \"while true; do echo 'Hello, World!'; sleep 1; done\"\n\n[X-Fleet]\nConflicts=j-app@*.service\n",
		"j-old.service":   service("[X-Fleet]\nX-ConditionMachineMetadata=disk=ssd\nX-Conflicts=j-other*\n"),
		"j-agent.service": service("[X-Fleet]\nGlobal=true\nMachineMetadata=\"disk=ssd\" \"disk=hdd\"\n"),
		"j-cron.service":  "[Service]\nType=oneshot\nExecStart=/bin/date\n\n[X-Fleet]\nMachineMetadata=disk=ssd\n",
		"j-cron.timer":    "[Timer]\nOnCalendar=*-*-* 04:00:00\n\n[X-Fleet]\nMachineOf=j-cron.service\n",
	})
	r.must(h.WriteFile(r.ctx, "/root/cloud-old.yaml", cloudConfigOfOld))
	all := []string{"j-web@.service", "j-app@.service", "j-app-sidekick@.service", "j-old.service", "j-agent.service", "j-cron.service", "j-cron.timer"}
	r.ctl(h, append([]string{"submit"}, all...)...)
	r.ctl(h, "load", "j-cron.service")
	r.ctl(h, "start", "j-app@1.service", "j-app-sidekick@1.service", "j-app@2.service", "j-app-sidekick@2.service", "j-old.service", "j-agent.service", "j-cron.timer")
	at := r.once("j-app@1.service", "j-app-sidekick@1.service", "j-app@2.service", "j-app-sidekick@2.service")
	if at["j-app@1.service"] == at["j-app@2.service"] || at["j-app@1.service"] != at["j-app-sidekick@1.service"] || at["j-app@2.service"] != at["j-app-sidekick@2.service"] {
		r.t.Errorf("apps and sidekicks are at %v", at)
	}
	out, text, code := r.try(h, "cloud-config", "validate", "/root/cloud-old.yaml")
	if code != 0 || strings.Contains(out+text, "error:") {
		r.t.Errorf("the host's document: %d %s%s", code, out, text)
	}
	if !slices.ContainsFunc(strings.Split(out+text, "\n"), func(line string) bool { return strings.Contains(line, "etcd2") }) {
		r.t.Errorf("nobody is told what has no meaning now: %s%s", out, text)
	}
}

const cloudConfigOfOld = `#cloud-config

hostname: node-1
coreos:
  etcd2:
    discovery: https://discovery.example.com/0123456789abcdef
    advertise-client-urls: http://$private_ipv4:2379
    listen-peer-urls: http://$private_ipv4:2380
  fleet:
    agent-ttl: 30s
    engine-reconcile-interval: 2
    etcd-cafile: /etc/ssl/etcd/ca.pem
    etcd-certfile: /etc/ssl/etcd/cert.pem
    etcd-keyfile: /etc/ssl/etcd/key.pem
    etcd-request-timeout: 1.0
    etcd-servers: http://127.0.0.1:2379
    metadata: region=us-west,disk=ssd
    public-ip: $public_ipv4
    verbosity: 1
  flannel:
    interface: $public_ipv4
  update:
    reboot-strategy: etcd-lock
    group: stable
  units:
    - name: etcd2.service
      command: start
    - name: flanneld.service
      drop-ins:
        - name: 50-network-config.conf
          content: |
            [Service]
            ExecStartPre=/usr/bin/etcdctl set /coreos.com/network/config '{ "Network": "10.1.0.0/16" }'
      command: start
    - name: fleet.service
      command: start
    - name: fleet.socket
      drop-ins:
        - name: 30-ListenStream.conf
          content: |
            [Socket]
            ListenStream=127.0.0.1:49153
    - name: etcd.service
      mask: true
    - name: docker.service
      runtime: true
      enable: true
    - name: fleet-tcp.socket
      command: start
      content: |
        [Socket]
        ListenStream=127.0.0.1:49154
        Service=fleet.service
        [Install]
        WantedBy=sockets.target
ssh_authorized_keys:
  - ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC core@example
users:
  - name: elroy
    groups:
      - sudo
      - docker
    ssh-authorized-keys:
      - ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC elroy@example
write_files:
  - path: /etc/motd
    permissions: 0644
    owner: root
    content: |
      Good news
`
