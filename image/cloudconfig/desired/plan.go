package desired

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// Kind is what a step does.
type Kind string

// The kinds, in the order in which they stand in a plan.
const (
	Write      Kind = "write"      // File; Keep: lay aside first what is there
	AddUser    Kind = "add user"   // User
	Password   Kind = "password"   // of User
	Restore    Kind = "restore"    // Path, as it was before us
	Remove     Kind = "remove"     // Path
	SetName    Kind = "host name"  // Words[0]
	Disable    Kind = "disable"    // Words
	Enable     Kind = "enable"     // Words
	Stop       Kind = "stop"       // Words, and wait: what their files say of stopping must still be there
	Reload     Kind = "reload"     // systemd
	ReloadNet  Kind = "reload net" // networkd
	Tell       Kind = "tell"       // systemctl --no-block Verb Words
	Run        Kind = "run"        // the script
	LeaveAlone Kind = "leave"      // Path: somebody has changed it since
)

// Step is one thing to do. Reason says why, for people.
type Step struct {
	Kind   Kind
	File   File
	Keep   bool
	Path   string
	Before Kept
	User   document.User
	Verb   string
	Words  []string
	Reason string
}

// String is the step in one line, without contents: they may be secrets.
func (s Step) String() string {
	what := string(s.Kind)
	switch s.Kind {
	case Write:
		what += fmt.Sprintf(" %s %04o %s", s.File.Path, s.File.Mode, s.File.Owner)
		if s.File.Link != "" {
			what = fmt.Sprintf("link %s to %s", s.File.Path, s.File.Link)
		}
	case AddUser, Password:
		what += " " + s.User.Name
	case Restore, Remove, LeaveAlone:
		what += " " + s.Path
	case Tell:
		what = s.Verb + " " + strings.Join(s.Words, " ")
	default:
		what = strings.TrimSpace(what + " " + strings.Join(s.Words, " "))
	}
	if s.Reason != "" {
		what += "  (" + s.Reason + ")"
	}
	return what
}

// Plan is what makes the host as desired, in the order in which to do it, and the state to keep once that is done. The plan of a host that is as
// desired is empty, but for what every boot needs: the commands and the script.
func Plan(d Desired, was State, seen Seen) ([]Step, State) {
	p := planner{want: d, was: was, seen: seen, changed: map[string]bool{}}
	p.next = State{V: 1, Source: was.Source, Document: was.Document, Applied: was.Applied, FirstBoot: was.FirstBoot,
		Files: map[string]Owned{}, Passwords: map[string]string{}}
	p.files(Network)
	p.users()
	p.name()
	p.files(Plain)
	p.files(Units)
	p.gone()
	p.enable()
	p.systemd()
	if len(d.Script) > 0 {
		p.add(Step{Kind: Run})
	}
	return p.steps, p.next
}

type planner struct {
	want    Desired
	was     State
	seen    Seen
	next    State
	steps   []Step
	changed map[string]bool // units of which a file changed
	units   bool            // a file changed that systemd reads
	network bool            // or networkd
}

func (p *planner) add(s Step) { p.steps = append(p.steps, s) }

func (p *planner) files(stage Stage) {
	for _, f := range p.want.Files {
		if f.Stage != stage {
			continue
		}
		there, owned := p.seen.Files[f.Path], p.was.Files[f.Path]
		now := Owned{Hash: f.Hash(), Before: owned.Before}
		s := Step{Kind: Write, File: f}
		switch _, ours := p.was.Files[f.Path]; {
		case there.Hash == "":
			s.Reason = "it is not there"
		case there.Hash != f.Hash() && ours:
			s.Reason = "its content differs"
		case there.Hash != f.Hash():
			s.Reason, s.Keep = "something else is there", true
			now.Before = &Kept{Mode: there.Mode, Owner: there.Owner}
		case f.Link == "" && (there.Mode != f.Mode || there.Owner != f.Owner):
			s.Reason = fmt.Sprintf("it is %04o %s", there.Mode, there.Owner)
		}
		p.next.Files[f.Path] = now
		if s.Reason != "" {
			p.add(s)
			p.touched(f.Path, unitOf(f.Path), stage)
		}
	}
}

func (p *planner) touched(file, unit string, stage Stage) {
	p.changed[unit] = true
	p.units = p.units || stage == Units || strings.Contains(file, "/systemd/system/")
	p.network = p.network || strings.Contains(file, "/systemd/network/")
}

// users are made once. Somebody's password is set when the document names another than before, so that a change made on the host stays.
func (p *planner) users() {
	for _, u := range p.want.Users {
		if !p.seen.Users[u.Name] {
			p.add(Step{Kind: AddUser, User: u})
		}
		if u.Passwd == "" {
			continue
		}
		hash := Hash([]byte(u.Passwd))
		p.next.Passwords[u.Name] = hash
		if p.was.Passwords[u.Name] != hash || !p.seen.Users[u.Name] {
			p.add(Step{Kind: Password, User: u})
		}
	}
}

func (p *planner) name() {
	if p.want.Hostname != "" && p.seen.Hostname != p.want.Hostname {
		p.add(Step{Kind: SetName, Words: []string{p.want.Hostname}, Reason: "it is " + p.seen.Hostname})
	}
}

// gone takes back what an earlier document asked for. What somebody has changed since is theirs.
func (p *planner) gone() {
	p.stopped()
	for _, file := range slices.Sorted(maps.Keys(p.was.Files)) {
		if _, still := p.next.Files[file]; still {
			continue
		}
		owned, there := p.was.Files[file], p.seen.Files[file]
		switch {
		case there.Hash == "" && owned.Before == nil:
			continue
		case there.Hash != owned.Hash:
			p.add(Step{Kind: LeaveAlone, Path: file, Reason: "it is no longer asked for, but was changed since"})
			continue
		case owned.Before != nil:
			p.add(Step{Kind: Restore, Path: file, Before: *owned.Before, Reason: "it is no longer asked for"})
		default:
			p.add(Step{Kind: Remove, Path: file, Reason: "it is no longer asked for"})
		}
		p.touched(file, unitOf(file), Plain)
	}
}

// stopped ends units whose files go.
func (p *planner) stopped() {
	if p.seen.Boot {
		return
	}
	var names []string
	for _, file := range slices.Sorted(maps.Keys(p.was.Files)) {
		_, still := p.next.Files[file]
		ours := p.was.Files[file]
		if !still && ours.Before == nil && !strings.HasPrefix(ours.Hash, "link:") && p.seen.Files[file].Hash == ours.Hash && path.Base(path.Dir(file)) == "system" && path.Base(file) == unitOf(file) && path.Base(file) != Target {
			names = append(names, unitOf(file))
		}
	}
	if len(names) > 0 {
		p.add(Step{Kind: Stop, Words: names, Reason: "no longer asked for"})
	}
}

// unitOf names the unit that a file is a part of, as systemd sees it; "" is none.
func unitOf(file string) string {
	dir := path.Dir(file)
	switch base := path.Base(file); {
	case path.Base(dir) == "system" && path.Base(path.Dir(dir)) == "systemd":
		return base
	case strings.HasSuffix(dir, ".d") && path.Base(path.Dir(dir)) == "system":
		return strings.TrimSuffix(path.Base(dir), ".d")
	case dir == settingsDir && strings.HasSuffix(base, ".env"):
		return strings.TrimSuffix(base, ".env") + ".service"
	case file == tokenFile:
		return "fleetd.service"
	}
	return ""
}

func (p *planner) enable() {
	var on, off []string
	for _, u := range p.want.Enable {
		if !p.seen.Enabled[u] || p.changed[u] {
			on = append(on, u)
		}
	}
	for _, u := range p.was.Enabled {
		if !slices.Contains(p.want.Enable, u) && p.seen.Enabled[u] {
			off = append(off, u)
		}
	}
	if len(off) > 0 {
		p.add(Step{Kind: Disable, Words: off, Reason: "no longer asked for"})
		p.units = true
	}
	if len(on) > 0 {
		p.add(Step{Kind: Enable, Words: on})
		p.units = true
	}
	p.next.Enabled = slices.Clone(p.want.Enable)
}

// systemd is told at the end, once, and not waited for: it knows the order of units better.
func (p *planner) systemd() {
	if p.units {
		p.add(Step{Kind: Reload})
	}
	if p.network && p.seen.Networkd {
		p.add(Step{Kind: ReloadNet})
	}
	verbs, byVerb := []string{}, map[string][]string{}
	tell := func(verb, unit string) {
		if byVerb[verb] == nil {
			verbs = append(verbs, verb)
		}
		if !slices.Contains(byVerb[verb], unit) {
			byVerb[verb] = append(byVerb[verb], unit)
		}
	}
	started := false
	for _, c := range p.want.Commands {
		switch {
		case c.Verb == "start" && p.changed[c.Unit] && !p.seen.Boot:
			tell("restart", c.Unit)
		case c.Verb == "start":
			started = true
		case p.seen.Boot || p.changed[c.Unit]:
			tell(c.Verb, c.Unit)
		}
	}
	for _, daemon := range document.Daemons() {
		unit := string(daemon) + ".service"
		if p.changed[unit] && !p.seen.Boot && !slices.Contains(byVerb["restart"], unit) {
			tell("try-restart", unit)
		}
	}
	for _, verb := range verbs {
		p.add(Step{Kind: Tell, Verb: verb, Words: byVerb[verb]})
	}
	if started && (p.seen.Boot || p.units) {
		p.add(Step{Kind: Tell, Verb: "start", Words: []string{Target}})
	}
}
