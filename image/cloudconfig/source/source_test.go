package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// client tries three times, at once.
func client(t *testing.T) *Client {
	return &Client{HTTP: http.DefaultClient, Tries: 3, Wait: func(context.Context, int) error { return nil }, Say: t.Logf}
}

// server answers with pages; a request that lacks a header that the page wants is refused.
func server(t *testing.T, header, value string, pages map[string]string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := pages[r.Method+" "+r.URL.Path]
		switch {
		case header != "" && r.Method == http.MethodGet && r.Header.Get(header) != value:
			w.WriteHeader(http.StatusUnauthorized)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const hello = "#cloud-config\nhostname: a\n"

func TestClouds(t *testing.T) {
	for _, row := range []struct {
		platform, header, value string
		pages                   map[string]string
		want                    Found
	}{
		{"ec2", "X-aws-ec2-metadata-token", "secret", map[string]string{
			"PUT /latest/api/token": "secret", "GET /latest/user-data": hello, "GET /latest/meta-data/local-hostname": "ip-10-0-0-7",
			"GET /latest/meta-data/local-ipv4": "10.0.0.7", "GET /latest/meta-data/public-ipv4": "192.0.2.7",
			"GET /latest/meta-data/public-keys/": "0=mine\n1=yours", "GET /latest/meta-data/public-keys/0/openssh-key": "ssh-rsa A\n",
			"GET /latest/meta-data/public-keys/1/openssh-key": "ssh-rsa B\n"},
			Found{Hostname: "ip-10-0-0-7", Keys: []string{"ssh-rsa A", "ssh-rsa B"}, Addresses: map[string]string{"private_ipv4": "10.0.0.7", "public_ipv4": "192.0.2.7"}}},
		{"gce", "Metadata-Flavor", "Google", map[string]string{
			"GET /computeMetadata/v1/instance/hostname": "h.internal", "GET /computeMetadata/v1/instance/network-interfaces/0/ip": "10.0.0.7",
			"GET /computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip": "192.0.2.7",
			"GET /computeMetadata/v1/instance/attributes/ssh-keys":                               "ada:ssh-rsa A ada\nbob:ssh-rsa B\n",
			"GET /computeMetadata/v1/instance/attributes/user-data":                              hello},
			Found{Hostname: "h.internal", Keys: []string{"ssh-rsa A ada", "ssh-rsa B"}, Addresses: map[string]string{"private_ipv4": "10.0.0.7", "public_ipv4": "192.0.2.7"}}},
		{"digitalocean", "", "", map[string]string{"GET /metadata/v1.json": `{"hostname":"d","user_data":"#cloud-config\nhostname: a\n","public_keys":["ssh-rsa A"],
			"interfaces":{"public":[{"ipv4":{"ip_address":"192.0.2.7"},"ipv6":{"ip_address":"2001:db8::7"}}],"private":[{"ipv4":{"ip_address":"10.0.0.7"}}]}}`},
			Found{Hostname: "d", Keys: []string{"ssh-rsa A"}, Addresses: map[string]string{"private_ipv4": "10.0.0.7", "public_ipv4": "192.0.2.7", "public_ipv6": "2001:db8::7"}}},
		{"openstack", "", "", map[string]string{"GET /openstack/latest/user_data": hello,
			"GET /openstack/latest/meta_data.json": `{"hostname":"o","public_keys":{"z":"ssh-rsa Z\n","a":"ssh-rsa A"}}`, "GET /latest/meta-data/local-ipv4": "10.0.0.7"},
			Found{Hostname: "o", Keys: []string{"ssh-rsa A", "ssh-rsa Z"}, Addresses: map[string]string{"private_ipv4": "10.0.0.7"}}},
	} {
		t.Run(row.platform, func(t *testing.T) {
			at := server(t, row.header, row.value, row.pages)
			s, err := Cloud(client(t), row.platform, at)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Fetch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			row.want.Source, row.want.UserData = row.platform+" metadata at "+at, []byte(hello)
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// coreos-cloudinit took any answer of 400 and more for "there is no user-data", and a host came up bare.
func TestOnlyNotFoundIsNothing(t *testing.T) {
	for status, none := range map[int]bool{http.StatusNotFound: true, http.StatusGone: true, http.StatusForbidden: false, http.StatusUnauthorized: false, http.StatusBadGateway: false} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		_, err := URL(client(t), s.URL, "").Fetch(t.Context())
		s.Close()
		if err == nil || errors.Is(err, ErrNone) != none {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestServerThatComesUpLate(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, hello)
	}))
	defer s.Close()
	got, err := URL(client(t), s.URL, "").Fetch(t.Context())
	if err != nil || string(got.UserData) != hello || asked != 3 {
		t.Errorf("%q %v after %d", got.UserData, err, asked)
	}
}

func TestURLWithHash(t *testing.T) {
	at := server(t, "", "", map[string]string{"GET /x": hello})
	sum := sha256.Sum256([]byte(hello))
	good := hex.EncodeToString(sum[:])
	for sum, wrong := range map[string]string{good: "", "sha256:" + strings.ToUpper(good): "", strings.Repeat("0", 64): "somebody has changed one of the two"} {
		_, err := URL(client(t), at+"/x", sum).Fetch(t.Context())
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", sum, err)
		}
	}
	for _, bad := range []string{"file:///etc/passwd", "x", ""} {
		if _, err := client(t).Fetch(t.Context(), bad, ""); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestTooLarge(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, document.MaxSize+1)) }))
	defer s.Close()
	if _, err := URL(client(t), s.URL, "").Fetch(t.Context()); !errors.Is(err, errSize) {
		t.Error(err)
	}
}

func TestPasswordInAURLIsNotShown(t *testing.T) {
	at := strings.Replace(server(t, "", "", nil), "http://", "http://me:s3cr3t@", 1)
	s := URL(client(t), at, "")
	_, err := s.Fetch(t.Context())
	if err == nil || strings.Contains(err.Error()+s.Name, "s3cr3t") {
		t.Error(err, s.Name)
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigDrives(t *testing.T) {
	for _, row := range []struct {
		name  string
		files map[string]string
		want  Found
		err   string
	}{
		{"OpenStack", map[string]string{"openstack/latest/user_data": hello, "openstack/latest/meta_data.json": `{"hostname":"o","public_keys":{"a":"ssh-rsa A"}}`},
			Found{UserData: []byte(hello), Hostname: "o", Keys: []string{"ssh-rsa A"}}, ""},
		{"OpenStack without user-data", map[string]string{"openstack/latest/meta_data.json": `{"hostname":"o"}`}, Found{Hostname: "o"}, ""},
		{"NoCloud", map[string]string{"user-data": hello, "meta-data": "local-hostname: n\npublic-keys: [ssh-rsa N]\n"},
			Found{UserData: []byte(hello), Hostname: "n", Keys: []string{"ssh-rsa N"}}, ""},
		{"neither", map[string]string{"readme": "x"}, Found{}, "holds neither openstack/latest/user_data nor user-data"},
		{"broken metadata", map[string]string{"openstack/latest/meta_data.json": "{"}, Found{}, "meta_data.json: unexpected end"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, row.files)
			got, err := ConfigDrive(dir).Fetch(t.Context())
			if row.err != "" {
				if err == nil || !strings.Contains(err.Error(), row.err) {
					t.Error(err)
				}
				return
			}
			row.want.Source = "config drive at " + dir
			if diff := cmp.Diff(row.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// The order is a promise: what a host becomes does not depend on which answers first.
func TestOrder(t *testing.T) {
	for _, row := range []struct {
		name  string
		facts Facts
		want  string
	}{
		{"a bare host", Facts{Cmdline: "root=/dev/vda quiet"}, ""},
		{"all of them", Facts{Cmdline: "x cloud-config-url=http://u/x cloud-config-sha256=00", DMI: map[string]string{"sys_vendor": "Amazon EC2"},
			Drives: []Drive{{"/dev/sr0", "config-2"}}, Files: []string{"/etc/fleet/cloud-config.yaml"}},
			"http://u/x (network), config drive config-2 at /dev/sr0, file /etc/fleet/cloud-config.yaml, ec2 metadata at http://169.254.169.254 (network)"},
		{"the old spelling", Facts{Cmdline: "cloud_config_url=http://u/x"}, "http://u/x (network)"},
		{"a platform by name", Facts{Cmdline: "fleet.platform=gce"}, "gce metadata at http://metadata.google.internal (network)"},
		{"a platform by name goes before the firmware's word", Facts{Cmdline: "ignition.platform.id=openstack", DMI: map[string]string{"sys_vendor": "Amazon EC2"}},
			"openstack metadata at http://169.254.169.254 (network)"},
		{"DigitalOcean", Facts{DMI: map[string]string{"sys_vendor": "DigitalOcean"}}, "digitalocean metadata at http://169.254.169.254 (network)"},
		{"OpenStack", Facts{DMI: map[string]string{"product_name": "OpenStack Nova"}}, "openstack metadata at http://169.254.169.254 (network)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			all, err := Order(row.facts, client(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range all {
				name := s.Name
				if s.Network {
					name += " (network)"
				}
				names = append(names, name)
			}
			if got := strings.Join(names, ", "); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
	for _, bad := range []string{"cloud-config-sha256=00", "fleet.platform=moon"} {
		if _, err := Order(Facts{Cmdline: bad}, client(t), nil); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestDriveThatCannotBeMounted(t *testing.T) {
	all, err := Order(Facts{Drives: []Drive{{"/dev/sr0", "cidata"}}}, client(t), func(Drive) (string, func(), error) { return "", nil, errors.New("no medium") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "mount the config drive cidata at /dev/sr0: no medium") {
		t.Error(err)
	}
}

// A server that nobody can reach is not one without a document: the host would become another.
func TestServerThatIsNotThere(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	said := 0
	c := client(t)
	c.Say = func(string, ...any) { said++ }
	if _, err := URL(c, s.URL+"/doc", "").Fetch(t.Context()); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), s.URL+"/doc") || said != c.Tries-1 {
		t.Errorf("%v, said %d times", err, said)
	}
}
