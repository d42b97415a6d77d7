package source

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// answering is a metadata service that answers every question with one of two texts.
type answering struct{ page, other string }

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	text, code := a.other, http.StatusOK
	if strings.HasSuffix(r.URL.Path, ".json") || strings.HasSuffix(r.URL.Path, "data") {
		text = a.page
	}
	if text == "" {
		code = http.StatusNotFound
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// FuzzCloud has clouds answer anything: what is found has no empty address and is no larger than a document may be, or an error says what was asked.
func FuzzCloud(f *testing.F) {
	f.Add(uint8(0), "#cloud-config\n", "0=mine")
	f.Add(uint8(1), "#cloud-config\n", "user:ssh-rsa A\n:\n")
	f.Add(uint8(2), `{"hostname":"a","interfaces":{"public":[{"ipv4":{"ip_address":"1.2.3.4"}}],"private":[null]},"public_keys":[""]}`, "")
	f.Add(uint8(3), `{"hostname":"a","public_keys":{"k":" ssh-rsa A "}}`, "10.0.0.7")
	f.Add(uint8(3), `[]`, "\x00\n")
	platforms := []string{"ec2", "gce", "digitalocean", "openstack"}
	f.Fuzz(func(t *testing.T, platform uint8, page, other string) {
		if strings.Count(other, "\n") > 20 || len(strings.Fields(other)) > 20 {
			return // each is a key to be asked for
		}
		c := &Client{HTTP: &http.Client{Transport: answering{page, other}}, Tries: 2, Wait: func(context.Context, int) error { return nil }, Say: func(string, ...any) {}}
		s, err := Cloud(c, platforms[int(platform)%len(platforms)], "")
		if err != nil {
			t.Fatal(err)
		}
		found, err := s.Fetch(t.Context())
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		for k, v := range found.Addresses {
			if v == "" {
				t.Errorf("%s is empty", k)
			}
		}
		if found.Source == "" || len(found.UserData) > document.MaxSize {
			t.Errorf("%d bytes from %q", len(found.UserData), found.Source)
		}
	})
}

// FuzzDrive reads drives that hold anything: twice the same, the keys in one order.
func FuzzDrive(f *testing.F) {
	f.Add(true, []byte("#cloud-config\n"), []byte(`{"hostname":"a","public_keys":{"b":"ssh-rsa B","a":"ssh-rsa A"}}`))
	f.Add(false, []byte("#cloud-config\n"), []byte("local-hostname: a\npublic-keys: [x]\n"))
	f.Add(false, []byte(nil), []byte("a: &a [*a, *a]\nhostname: *a\n"))
	f.Fuzz(func(t *testing.T, openstack bool, user, meta []byte) {
		dir := t.TempDir()
		names := []string{"user-data", "meta-data"}
		if openstack {
			names = []string{"openstack/latest/user_data", "openstack/latest/meta_data.json"}
		}
		for i, b := range [][]byte{user, meta} {
			p := filepath.Join(dir, names[i])
			if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		found, err := readDrive(dir)
		again, err2 := readDrive(dir)
		if (err == nil) != (err2 == nil) || found.Hostname != again.Hostname || strings.Join(found.Keys, "\n") != strings.Join(again.Keys, "\n") {
			t.Errorf("%+v %v, then %+v %v", found, err, again, err2)
		}
		if err != nil && !strings.Contains(err.Error(), "meta") {
			t.Errorf("%v does not name the file", err)
		}
		if err == nil && !bytes.Equal(found.UserData, user) {
			t.Errorf("user-data %q", found.UserData)
		}
	})
}

// FuzzCmdline reads what the boot loader, the firmware and a person said: an error, or sources in an order of which each has a name.
func FuzzCmdline(f *testing.F) {
	f.Add("cloud-config-url=http://a/b cloud_config_sha256=00 fleet.platform=qemu", "Amazon EC2", "x")
	f.Add("ignition.platform.id=openstack", "", "OpenStack Nova")
	f.Add("cloud-config-sha256=00", "", "")
	f.Fuzz(func(t *testing.T, line, vendor, product string) {
		c := &Client{HTTP: &http.Client{Transport: answering{}}, Say: func(string, ...any) {}}
		list, err := Order(Facts{Cmdline: line, DMI: map[string]string{"sys_vendor": vendor, "product_name": product}, Drives: []Drive{{"/dev/sr0", "cidata"}},
			Files: []string{filepath.Join(t.TempDir(), "none")}}, c, func(Drive) (string, func(), error) { return "", func() {}, nil })
		if err != nil {
			if !strings.Contains(err.Error(), "command line") {
				t.Errorf("%v does not say where", err)
			}
			return
		}
		if len(list) < 2 || len(list) > 4 {
			t.Errorf("%d sources", len(list))
		}
		for _, s := range list {
			if s.Name == "" {
				t.Error("a source without a name")
			}
			if s.Network {
				_, _ = s.Fetch(t.Context()) // of a server that has nothing
			}
		}
	})
}
