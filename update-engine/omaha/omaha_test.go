package omaha

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRequestAsFlatcarsServersReadIt(t *testing.T) {
	h := Host{AppID: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}", Version: "1.0.0", Track: "stable", Board: "amd64-usr",
		MachineID: "0123456789abcdef0123456789abcdef", BootID: "b1", OEM: "vmware"}
	b, err := xml.Marshal(h.Ask(true, Complete("0.9.0")))
	if err != nil {
		t.Fatal(err)
	}
	want := `<request protocol="3.0" version="fleet-update-engine-1.0" updaterversion="fleet-update-engine-1.0" installsource="scheduler" ismachine="1">` +
		`<os version="Fleet" platform="Fleet" sp="1.0.0"></os>` +
		`<app appid="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}" version="1.0.0" track="stable" bootid="{b1}" oem="vmware" oemversion="" alephversion=""` +
		` machineid="0123456789abcdef0123456789abcdef" machinealias="" lang="en-US" board="amd64-usr" hardware_class="" delta_okay="false">` +
		`<ping active="1"></ping><updatecheck></updatecheck><event eventtype="3" eventresult="2" previousversion="0.9.0"></event></app></request>`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	h.OnDemand = true
	b, err = xml.Marshal(h.Ask(false, DownloadStarted(), DownloadFinished(), Installed(), Failed(RolledBack)))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`installsource="ondemandupdate"`, `<event eventtype="13" eventresult="1"></event>`, `<event eventtype="14" eventresult="1"></event>`,
		`<event eventtype="3" eventresult="1"></event>`, `<event eventtype="3" eventresult="0" errorcode="44"></event>`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %s", b, part)
		}
	}
	if strings.Contains(string(b), "ping") || strings.Contains(string(b), "updatecheck") {
		t.Errorf("a message of events only asks for more: %s", b)
	}
}

func sum() string { return base64.StdEncoding.EncodeToString(make([]byte, 32)) }

// app wraps an app element in a response.
func app(status, inside string) string {
	return xml.Header + `<response protocol="3.0" server="nebraska"><daystart elapsed_seconds="0"></daystart><app appid="x" status="` + status + `">` + inside + `</app></response>`
}

func offer(action string) string {
	return `<updatecheck status="ok" future="1"><urls><url codebase="https://a/1/"></url><url codebase="https://b"></url></urls><manifest version="2.0.0"><packages>` +
		`<package name="u.gz" hash="c2hhMQ==" size="5" required="true"/><package name="oem.gz" size="6" required="false"/></packages>` +
		`<actions><action event="postinstall" ` + action + ` DisablePayloadBackoff="true" deadline=""/></actions></manifest><new/></updatecheck>`
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"an update", app("ok", offer(`sha256="`+sum()+`"`)), "2.0.0 of 5 bytes at [https://a/1/u.gz https://b/u.gz], 32-byte sum"},
		{"an update with the sum in hex", app("ok", offer(`sha256="`+strings.Repeat("0a", 32)+`"`)), "2.0.0 of 5 bytes at [https://a/1/u.gz https://b/u.gz], 32-byte sum"},
		{"nothing new", app("ok", `<updatecheck status="noupdate"></updatecheck>`), "nothing"},
		{"nothing new, ask in an hour", app("ok", `<updatecheck status="noupdate" PollInterval="3600"/>`), "nothing, in 1h0m0s"},
		{"nothing, since enough hosts update", app("error-maxConcurrentUpdatesLimitReached", `<updatecheck status="error-internal"/>`), "hold: enough hosts are updating"},
		{"nothing, since updates are off", app("error-updatesDisabled", ``), "hold: updates of this group are switched off at the server"},
		{"unknown application", app("error-unknownApplication", `<updatecheck status="error-internal"/>`), "error"},
		{"an update without a sum", app("ok", offer("")), "error"},
		{"an update with half a sum", app("ok", offer(`sha256="AAAA"`)), "error"},
		{"an update without a manifest", app("ok", `<updatecheck status="ok"><urls><url codebase="https://a"/></urls></updatecheck>`), "error"},
		{"an update from nowhere", app("ok", strings.ReplaceAll(strings.ReplaceAll(offer(`sha256="`+sum()+`"`), "https://a/1/", ""), "https://b", "")), "error"},
		{"no updatecheck", app("ok", ``), "error"},
		{"an empty document, as Nebraska answers what it cannot read", xml.Header, "error"},
		{"nothing at all", "", "error"},
		{"another protocol", `<response protocol="2.0"><app/></response>`, "error"},
		{"no app", `<response protocol="3.0"></response>`, "error"},
		{"a web page", "<html><body>Sign in</body></html>", "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseResponse([]byte(tt.body))
			var a Answer
			if err == nil {
				a, err = r.Check()
			}
			got := "nothing"
			switch {
			case errors.Is(err, ErrAnswer):
				got = "error"
			case err != nil:
				got = err.Error()
			case a.Offer != nil:
				got = fmt.Sprintf("%s of %d bytes at %v, %d-byte sum", a.Offer.Version, a.Offer.Size, a.Offer.URLs, len(a.Offer.SHA256))
			case a.Hold != "":
				got = "hold: " + a.Hold
			case a.Poll > 0:
				got += ", in " + a.Poll.String()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// decider has one release for one track and notes all that happens.
type decider struct{ log []string }

func (d *decider) Decide(_ context.Context, c Client) (Verdict, error) {
	d.log = append(d.log, fmt.Sprintf("%s on %s %s asks, has %s", c.MachineID, c.Arch, c.Track, c.Version))
	switch {
	case c.AppID != "app":
		return Verdict{}, ErrUnknownApp
	case c.Track == "broken":
		return Verdict{}, errors.New("no store")
	case c.Track == "hold":
		return Verdict{Poll: time.Hour}, nil
	}
	return Verdict{Release: &Release{Version: "2.0.0", CodeBases: []string{"https://a/2.0.0"}, File: "u.gz", Size: 5, SHA256: sum()}}, nil
}

func (d *decider) Happened(_ context.Context, _ Client, e Event) error {
	d.log = append(d.log, fmt.Sprintf("event %d/%d code %d previous %q", e.Type, e.Result, e.Code, e.Previous))
	if e.Type == 800 {
		return errors.New("no store")
	}
	return nil
}

func post(t *testing.T, d Decider, body string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	Handler(d).ServeHTTP(rec, httptest.NewRequest("POST", "/v1/update/", strings.NewReader(body)))
	return rec.Code, rec.Body.String()
}

func request(id, track, inside string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><request protocol="3.0" version="update_engine-0.4.10" installsource="scheduler" ismachine="1" extra="x">` +
		`<os version="Chateau" platform="CoreOS" sp="1.0.0_x86_64"></os><app appid="{` + id + `}" version="1.0.0" track="` + track + `" bootid="{b}" machineid="m1" board="arm64-usr">` +
		inside + `</app></request>`
}

func TestServerAnswersFlatcarsClient(t *testing.T) {
	const ask = `<ping active="1"></ping><updatecheck></updatecheck><event eventtype="3" eventresult="2" previousversion=""></event>`
	d := &decider{}
	code, body := post(t, d, request("app", "stable", ask))
	want := xml.Header + `<response protocol="3.0" server="fleet"><daystart elapsed_seconds="0"></daystart><app appid="{app}" status="ok"><ping status="ok"></ping>` +
		`<updatecheck status="ok"><urls><url codebase="https://a/2.0.0/"></url></urls><manifest version="2.0.0"><packages>` +
		`<package name="u.gz" hash="" hash_sha256="` + sum() + `" size="5" required="true"></package></packages><actions>` +
		`<action event="postinstall" DisplayVersion="" sha256="` + sum() + `" needsadmin="false" IsDeltaPayload="false" DisablePayloadBackoff="false"` +
		` MetadataSignatureRsa="" MetadataSize="" deadline=""></action></actions></manifest></updatecheck><event status="ok"></event></app></response>`
	if diff := cmp.Diff(want, body); code != 200 || diff != "" {
		t.Errorf("%d\n%s", code, diff)
	}
	if diff := cmp.Diff([]string{`event 3/2 code 0 previous ""`, "m1 on arm64 stable asks, has 1.0.0"}, d.log); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct{ name, id, track, inside, want string }{
		{"a hold is no error", "app", "hold", ask, `<updatecheck status="noupdate" PollInterval="3600"></updatecheck>`},
		{"our own trouble is no error of the client", "app", "broken", ask, `<updatecheck status="noupdate"></updatecheck>`},
		{"unknown application", "other", "stable", ask, `status="error-unknownApplication"`},
		{"events only", "app", "stable", `<event eventtype="3" eventresult="0" errorcode="44"></event>`, `status="ok"><event status="ok"></event></app>`},
		{"an event that could not be kept", "app", "stable", `<event eventtype="800" eventresult="1"></event>`, `<event status="error-internal">`},
		{"ping only", "app", "stable", `<ping active="1"></ping>`, `status="ok"><ping status="ok"></ping></app>`},
	} {
		if code, body := post(t, &decider{}, request(tt.id, tt.track, tt.inside)); code != 200 || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s", tt.name, code, body)
		}
	}
	for _, bad := range []string{"", "<request", `<request protocol="2.0"><app/></request>`, `<request protocol="3.0"/>`, strings.Repeat("<a>", maxBody)} {
		if code, _ := post(t, d, bad); code != http.StatusBadRequest {
			t.Errorf("%.30q: %d", bad, code)
		}
	}
}

// TestBothEndsUnderstandEachOther puts the client against the handler.
func TestBothEndsUnderstandEachOther(t *testing.T) {
	d := &decider{}
	s := httptest.NewServer(http.StripPrefix("/v1/update", Handler(d)))
	defer s.Close()
	h := Host{AppID: "app", Version: "1.0.0", Track: "stable", Board: "amd64-usr", MachineID: "m1"}
	r, err := Post(t.Context(), s.Client(), s.URL, h.Ask(true, Failed(RolledBack)))
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.Check()
	want := Answer{Offer: &Offer{Version: "2.0.0", URLs: []string{"https://a/2.0.0/u.gz"}, Size: 5, SHA256: make([]byte, 32)}}
	if diff := cmp.Diff(want, a); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{`event 3/0 code 44 previous ""`, "m1 on amd64 stable asks, has 1.0.0"}, d.log); diff != "" {
		t.Error(diff)
	}
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }))
	defer bad.Close()
	if _, err := Post(t.Context(), bad.Client(), bad.URL, h.Ask(true)); !errors.Is(err, ErrAnswer) {
		t.Errorf("502: %v", err)
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte(app("ok", offer(`sha256="`+sum()+`"`))))
	f.Add([]byte(app("ok", `<updatecheck status="noupdate"/>`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseResponse(b)
		if err != nil {
			return
		}
		if a, err := r.Check(); err == nil && a.Offer != nil && (a.Offer.Size <= 0 || len(a.Offer.URLs) == 0 || len(a.Offer.SHA256) != 32) {
			t.Errorf("half an offer: %+v", a.Offer)
		}
	})
}
