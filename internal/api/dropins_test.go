package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

const (
	exec   = `[{"section":"Service","name":"ExecStart","value":"/bin/web"}]`
	exec2  = `[{"section":"Service","name":"ExecStart","value":"/bin/web2"}]`
	nice   = `[{"section":"Service","name":"Nice","value":"5"}]`
	folder = `"dropIns":{"web@.service":{"10-nice.conf":` + nice + `}}`
)

// A client of fleet v1 sees a unit's own text, can write it back as it read it, and can change it: the drop-ins stay.
func TestClientOfV1NeitherLosesNorBreaksDropIns(t *testing.T) {
	f := newFixture(t)
	f.want("PUT", "/fleet/v1/units/web@.service", `{"options":`+exec+`,`+folder+`}`, 201, "")
	read := `{"desiredState":"inactive","name":"web@.service","options":` + exec + `}`
	f.want("GET", "/fleet/v1/units/web@.service", "", 200, `{"currentState":"inactive",`+read[1:])
	f.want("GET", "/fleet/v1/units", "", 200, `{"units":[{"currentState":"inactive",`+read[1:]+`]}`)
	f.want("PUT", "/fleet/v1/units/web@.service", read, 204, "")

	// It makes an instance as fleetctl 1.0 does: by copying the options.
	f.want("PUT", "/fleet/v1/units/web@1.service", `{"name":"web@1.service","options":`+exec+`}`, 201, "")
	f.want("PUT", "/fleet/v1/units/web@1.service", `{"name":"web@1.service","desiredState":"launched"}`, 204, "")
	both := f.snapshot().Units
	if both["web@.service"].Hash != both["web@1.service"].Hash || both["web@1.service"].Main == "" {
		t.Errorf("the instance lacks its template's drop-in: %+v", both["web@1.service"])
	}
	f.want("PUT", "/fleet/v1/units/web@1.service", `{"name":"web@1.service","options":`+exec2+`}`, 201, "")
	w := f.do("GET", "/fleet/v1/units/web@1.service?view=whole", "")
	if body := compact(w.Body.Bytes()); !strings.Contains(body, folder) || !strings.Contains(body, "web2") {
		t.Errorf("after its text was replaced: %s", body)
	}
}

func TestFaultyDropInsAreRefused(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		what, body, says string
		code             int
	}{
		{"another unit's folder", `{"options":` + exec + `,"dropIns":{"db.service":{"a.conf":` + nice + `}}}`, `db.service.d/a.conf\" is not web.service's`, 400},
		{"a path", `{"options":` + exec + `,"dropIns":{"web.service":{"../a.conf":` + nice + `}}}`, "no plain file name", 400},
		{"placement", `{"options":` + exec + `,"dropIns":{"web.service":{"a.conf":[{"section":"X-Fleet","name":"Global","value":"1"}]}}}`, "fleetctl edit --full web.service", 400},
		{"a second line", `{"options":` + exec + `,"dropIns":{"web.service":{"a.conf":[{"section":"Service","name":"Nice","value":"1\nUser=root"}]}}}`, "newline", 400},
		{"without options", `{"dropIns":{"web.service":{"a.conf":` + nice + `}}}`, "send both", 400},
		{"too much", `{"options":` + exec + `,"dropIns":{"web.service":{"a.conf":[{"section":"Service","name":"Nice","value":"` + strings.Repeat("x", 1<<20) + `"}]}}}`, "1 MiB", 413},
		{"something else than was there", `{"options":` + exec + `,"was":"0000"}`, "no longer has the text", 409},
	} {
		w := f.do("PUT", "/fleet/v1/units/web.service", row.body)
		if w.Code != row.code || !strings.Contains(w.Body.String(), row.says) {
			t.Errorf("%s: %d %s", row.what, w.Code, w.Body)
		}
	}
	if n := len(f.snapshot().Units); n != 0 {
		t.Errorf("%d units are stored", n)
	}
}

// What the client sends is what it reads, in one request for many units.
func TestClientReadsAndWritesDropIns(t *testing.T) {
	f := newFixture(t)
	c := f.serve()
	own, err := unit.ParseDropIn("web@1.service", "20.conf", nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := unit.ParseDropIn("web@.service", "10.conf", []byte("[Service]\nNice=1\n"))
	if err != nil {
		t.Fatal(err)
	}
	main, err := unit.Parse([]byte("[Service]\nExecStart=/bin/web\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := main.With([]unit.DropIn{own, all})
	u := Unit{Name: "web@1.service", DesiredState: string(fleet.Inactive)}
	u.SetFile(want, "web@.service", "web@1.service")
	res, err := c.Batch(t.Context(), Batch{Set: []Unit{u, {Name: "db.service", Options: main.Options}}})
	if err != nil || res.Results[0].Err != nil || res.Results[0].Hash != string(want.Hash()) || res.Results[1].Hash != string(main.Hash()) {
		t.Fatal(res, err)
	}
	list, err := c.Texts(t.Context(), "web@1.service", "no.service", "db.service")
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	for i, w := range []*unit.File{want, main} {
		got, _, err := list[i].File()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.String(), got.String()); diff != "" {
			t.Error(diff)
		}
	}
	u.Was = string(main.Hash())
	if res, err = c.Batch(t.Context(), Batch{Set: []Unit{u}}); err != nil || !errors.Is(res.Results[0].Err, fleet.ErrConflict) {
		t.Error("what others wrote meanwhile is overwritten:", res, err)
	}
}
