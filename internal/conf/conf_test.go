package conf

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type settings struct {
	Verbosity int
	Servers   []string
	TTL       time.Duration
	IP        netip.Addr
	Net       netip.Prefix
	Meta      map[string]string
	Off       bool
	Prefix    string
	Colour    string
}

func program(s *settings) Program {
	return Program{Name: "testd", Env: "TEST_", File: "/etc/test.conf", Keys: []Key{
		Int("verbosity", &s.Verbosity, 0, 0, 9, "log more"),
		Strings("etcd_servers", &s.Servers, []string{"http://a"}, "where", func(s string) error {
			if !strings.HasPrefix(s, "http") {
				return errors.New("write it as a URL")
			}
			return nil
		}),
		Duration("agent_ttl", &s.TTL, 10*time.Second, time.Second, "how long"),
		Addr("public_ip", &s.IP, "me"),
		Network("member_ip", &s.Net, "my network"),
		Map("metadata", &s.Meta, "k=v"),
		Bool("disable_engine", &s.Off, false, "no engine"),
		String("key_prefix", &s.Prefix, "/x/", "prefix"),
		Word("colour", &s.Colour, "red", "colour", "red", "blue"),
		Gone("verify_units", "units are signed no more"),
	}}
}

func files(m map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if text, ok := m[name]; ok {
			return []byte(text), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
}

// with is the defaults, changed.
func with(change func(*settings)) settings {
	var s settings
	program(&s)
	if change != nil {
		change(&s)
	}
	return s
}

func TestParse(t *testing.T) {
	for name, row := range map[string]struct {
		file string // the default file; "" = there is none
		env  []string
		args []string
		want settings
		warn []string
	}{
		"nothing set, defaults": {want: with(nil)},
		"a file as fleet's, with comments, quotes and both kinds of list": {
			file: "\ufeff# fleet\r\n\r\n; old\r\netcd_servers=[\"http://b\", \"http://c\"]\r\nmetadata=\"region=us-west, az = 1,az=2\"\r\nagent_ttl = \"30s\"\npublic_ip=\"\"\n",
			want: with(func(s *settings) {
				s.Servers, s.TTL = []string{"http://b", "http://c"}, 30*time.Second
				s.Meta = map[string]string{"region": "us-west", "az": "2"}
			}),
		},
		"plain list, seconds as a number": {
			file: "etcd_servers = http://b,http://c,\nagent_ttl=2.5",
			want: with(func(s *settings) { s.Servers, s.TTL = []string{"http://b", "http://c"}, 2500*time.Millisecond }),
		},
		"environment over file, flag over environment": {
			file: "verbosity=1\nkey_prefix=/file/\ncolour=blue",
			env:  []string{"TEST_VERBOSITY=2", "TEST_KEY_PREFIX=/env/", "OTHER=1", "TEST_COLOUR="},
			args: []string{"--verbosity", "3"},
			want: with(func(s *settings) { s.Verbosity, s.Prefix, s.Colour = 3, "/env/", "blue" }),
		},
		"one dash, equals sign, bare switch": {
			args: []string{"-agent-ttl=1m", "-disable-engine", "--public_ip=::ffff:10.0.0.1"},
			want: with(func(s *settings) { s.TTL, s.Off, s.IP = time.Minute, true, netip.MustParseAddr("10.0.0.1") }),
		},
		"a switch turned off": {
			file: "disable_engine = TRUE", args: []string{"--disable-engine=false", "--public-ip="}, want: with(nil),
		},
		"an address is a network of one": {
			args: []string{"--member-ip", "10.0.0.7"},
			want: with(func(s *settings) { s.Net = netip.MustParsePrefix("10.0.0.7/32") }),
		},
		"a network is masked": {
			env:  []string{"TEST_MEMBER_IP=10.0.0.7/24"},
			want: with(func(s *settings) { s.Net = netip.MustParsePrefix("10.0.0.0/24") }),
		},
		"keys of old and odd metadata warn": {
			file: "verify_units=true\nmetadata=a=b,disk,=c\nverbosity=1\nverbosity=2",
			args: []string{"--verify-units"},
			want: with(func(s *settings) { s.Meta, s.Verbosity = map[string]string{"a": "b"}, 2 }),
			warn: []string{
				"/etc/test.conf:1: verify_units has no effect: units are signed no more",
				`/etc/test.conf:2: metadata: left out "disk", "=c": write each as key=value`,
				"/etc/test.conf:4: verbosity is set in line 3 already; this one counts",
				"flag --verify-units: verify_units has no effect: units are signed no more",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := map[string]string{}
			if row.file != "" {
				fs["/etc/test.conf"] = row.file
			}
			var got settings
			res, err := Parse(program(&got), row.args, row.env, files(fs))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got, cmp.Comparer(netipEqual[netip.Addr]), cmp.Comparer(netipEqual[netip.Prefix])); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(row.warn, res.Warnings, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func netipEqual[T comparable](a, b T) bool { return a == b }

func TestParseErrorsSayWhereAndWhatToDo(t *testing.T) {
	for name, row := range map[string]struct {
		file string
		env  []string
		args []string
		want string
	}{
		"all at once, in the order of reading": {
			file: "agent_tll = 5s\n[fleet]\nhello\nverbosity = high\nagent_ttl = 1ms\netcd_servers=[\"a\"",
			env:  []string{"TEST_AGENT_TTLS=1", "TEST_verbosity=1", "TEST_NOTHING_LIKE_IT=1", "TEST_PUBLIC_IP=here"},
			args: []string{"--nope-at-all", "x", "--disable-engin", "--disable-engine=maybe", "--agent-ttl"},
			want: `/etc/test.conf:1: unknown key "agent_tll"; did you mean agent_ttl?
/etc/test.conf:2: [fleet]: the file has no sections; remove the line
/etc/test.conf:3: "hello" is no setting; write key = value, or # before a comment
/etc/test.conf:4: verbosity = "high": use a whole number from 0 to 9
/etc/test.conf:5: agent_ttl = "1ms": use at least 1s
/etc/test.conf:6: etcd_servers = "[\"a\"": the list has no closing ]; use a,b or ["a","b"]
environment: unknown variable TEST_AGENT_TTLS; did you mean TEST_AGENT_TTL?
environment: unknown variable TEST_NOTHING_LIKE_IT; remove it (Environment= of the unit)
environment TEST_PUBLIC_IP: public_ip = "here": use an IP address such as "10.0.0.1"
environment: unknown variable TEST_verbosity; did you mean TEST_VERBOSITY?
unknown flag --nope-at-all; see testd -help
unexpected argument "x"; see testd -help
unknown flag --disable-engin; did you mean --disable-engine?
flag --agent-ttl needs a value
flag --disable-engine: disable_engine = "maybe": use true or false`,
		},
		"a named file must be there": {
			args: []string{"-config", "/nowhere"},
			want: "read /nowhere: file does not exist; correct -config, or the file",
		},
		"an open quote": {
			file: `key_prefix = "/x/`,
			want: `/etc/test.conf:1: key_prefix: the quote " is not closed`,
		},
		"items, words and networks": {
			args: []string{"--etcd-servers", "http://a,b", "--colour=green", "--member-ip=10.0.0.0/99"},
			want: `flag --etcd-servers: etcd_servers = "http://a,b": "b": write it as a URL
flag --colour: colour = "green": use one of red, blue
flag --member-ip: member_ip = "10.0.0.0/99": use an IP address such as "10.0.0.1", or a network such as "10.0.0.0/24"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := map[string]string{}
			if row.file != "" {
				fs["/etc/test.conf"] = row.file
			}
			var got settings
			_, err := Parse(program(&got), row.args, row.env, files(fs))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(row.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAskingForVersionOrHelpLooksAtNothingElse(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"-version"}, {"--version"}, {"--bad", "-version"}} {
		if res, err := Parse(program(&settings{}), args, []string{"TEST_X=1"}, nil); err != nil || !res.Version {
			t.Errorf("%v: %+v, %v", args, res, err)
		}
	}
	if res, err := Parse(program(&settings{}), []string{"-h"}, nil, nil); err != nil || !res.Help {
		t.Errorf("-h: %+v, %v", res, err)
	}
}

func TestNamedFileIsReadInsteadOfTheDefault(t *testing.T) {
	var s settings
	m := map[string]string{"/etc/test.conf": "verbosity=1", "/other": "key_prefix=/o/"}
	res, err := Parse(program(&s), []string{"-config=/other"}, nil, files(m))
	if err != nil || res.File != "/other" || s.Verbosity != 0 || s.Prefix != "/o/" {
		t.Errorf("%+v, %+v, %v", s, res, err)
	}
}

func TestUnreadableFileIsAnError(t *testing.T) {
	_, err := Parse(program(&settings{}), nil, nil, func(string) ([]byte, error) { return nil, os.ErrPermission })
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v", err)
	}
}

func TestUsageNamesEveryKeyWithItsDefault(t *testing.T) {
	got := Usage(program(&settings{}))
	for _, want := range []string{"--agent-ttl\n        how long (default 10s)", "--verbosity\n        log more\n", "(TEST_KEY)", "/etc/test.conf"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "verify") {
		t.Error("keys of old should not be advertised")
	}
}

// FuzzParse: no text makes the reader panic, and a text without error sets the same twice.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"verbosity=1", "etcd_servers=[\"a\",'b']", "metadata=\"a=b", "=", "[x]\n\"", "agent_ttl=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a, b settings
		m := map[string]string{"/etc/test.conf": text}
		_, err1 := Parse(program(&a), nil, nil, files(m))
		_, err2 := Parse(program(&b), nil, nil, files(m))
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("%v, then %v", err1, err2)
		}
		if diff := cmp.Diff(a, b, cmp.Comparer(netipEqual[netip.Addr]), cmp.Comparer(netipEqual[netip.Prefix])); diff != "" {
			t.Error(diff)
		}
	})
}
