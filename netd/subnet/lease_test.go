package subnet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What flannel writes is read, and written back byte for byte.
func TestLeaseKeepsFlannelsForm(t *testing.T) {
	for name, value := range map[string]string{
		"10.1.74.0-24": `{"PublicIP":"1.2.3.4","PublicIPv6":null}`,
		"10.1.75.0-24": `{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:00:11:22:33:44"}}`,
		"10.1.76.0-24&fc00:0:0:1::-64": `{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","BackendType":"wireguard",` +
			`"BackendData":{"PublicKey":"x","Port":51820},"BackendV6Data":{"PublicKey":"x","Port":51821}}`,
		"fc00:0:0:1::-64": `{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1","BackendType":"vxlan","BackendData":"text of an extension"}`,
	} {
		l, err := parseLease(name, []byte(value))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(name+" "+value, l.Name()+" "+string(encodeLease(l))); d != "" {
			t.Error(d)
		}
	}
}

func TestParseLeaseRefuses(t *testing.T) {
	const ok = `{"PublicIP":"1.2.3.4","PublicIPv6":null}`
	for _, row := range []struct{ name, value, want string }{
		{"foo", ok, `parse lease name "foo": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"10.1.1.0", ok, `parse lease name "10.1.1.0": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"0.0.0.0-0", ok, `parse lease name "0.0.0.0-0": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"10.1.1.7-24", ok, `parse lease name "10.1.1.7-24": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"10.1.1.0-33", ok, `parse lease name "10.1.1.0-33": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"10.1.1.0-24&10.1.2.0-24", ok, `parse lease name "10.1.1.0-24&10.1.2.0-24": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"fc00::-64&10.1.2.0-24", ok, `parse lease name "fc00::-64&10.1.2.0-24": want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len`},
		{"10.1.1.0-24", `{`, "parse lease 10.1.1.0-24: unexpected end of JSON input"},
		{"10.1.1.0-24", `{"PublicIP":"x"}`, `parse lease 10.1.1.0-24: PublicIP "x" is no IPv4 address`},
		{"10.1.1.0-24", `{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}`, `parse lease 10.1.1.0-24: PublicIPv6 "1.2.3.4" is no IPv6 address`},
	} {
		if _, err := parseLease(row.name, []byte(row.value)); err == nil || err.Error() != row.want {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want)
		}
	}
}

func FuzzParseLease(f *testing.F) {
	f.Add("10.1.76.0-24&fc00:0:0:1::-64", `{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","Fleet":{"Machine":"a"}}`)
	f.Fuzz(func(t *testing.T, name, value string) {
		l, err := parseLease(name, []byte(value))
		if err != nil {
			return
		}
		again, err := parseLease(l.Name(), encodeLease(l))
		if err != nil {
			t.Fatalf("%q %q: written form is not read: %v", name, value, err)
		}
		if string(encodeLease(again)) != string(encodeLease(l)) {
			t.Fatalf("%q %q: not stable", name, value)
		}
	})
}
