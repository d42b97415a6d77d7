package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExitCodesAreThoseOfTheHelp gives the command good and bad documents and command lines.
func TestExitCodesAreThoseOfTheHelp(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "#cloud-config\n") }))
	defer web.Close()
	good := file("good.yaml", "#cloud-config\nhostname: web-1\n")
	unknown := file("unknown.yaml", "#cloud-config\nhostnmae: web-1\n")
	broken := file("broken.yaml", "#cloud-config\nusers:\n\t- x\n")
	wrong := file("wrong.yaml", "#cloud-config\nusers: core\n")
	missing := filepath.Join(dir, "missing.yaml")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":                           {nil, 2, "usage: cloud-config COMMAND"},
		"help":                              {[]string{"help"}, 0, "exit codes: 0 done, 1 failed, 2 the document or the command line is wrong"},
		"help of a command":                 {[]string{"validate", "--help"}, 0, "usage: cloud-config COMMAND"},
		"a command that is none":            {[]string{"aply"}, 2, `unknown command "aply"`},
		"a flag that is none":               {[]string{"apply", "--what"}, 2, "unknown flag: --what"},
		"a good document":                   {[]string{"validate", good}, 0, ""},
		"validate without a document":       {[]string{"validate"}, 2, "name the documents: cloud-config validate FILE..."},
		"two documents, one of them wrong":  {[]string{"validate", good, wrong}, 2, `wrong.yaml: line 2: error: users must be a list, not "core"`},
		"two documents to apply":            {[]string{"apply", good, good}, 2, "name one document"},
		"two documents to compare":          {[]string{"diff", good, "--from-configdrive", dir}, 2, "name one document"},
		"a hash of nothing":                 {[]string{"apply", "--sha256", "00"}, 2, "--sha256 is of what --from-url names"},
		"a word that nobody knows":          {[]string{"validate", unknown}, 2, `unknown.yaml: line 2: error: unknown key "hostnmae" in the document; did you mean hostname?`},
		"broken YAML":                       {[]string{"validate", broken}, 2, "broken.yaml: line 3: error: YAML: found character that cannot start any token"},
		"a document that is not there":      {[]string{"validate", missing}, 1, "missing.yaml: file does not exist"},
		"a folder that is no drive":         {[]string{"diff", "--from-configdrive", dir}, 1, "holds neither openstack/latest/user_data nor user-data"},
		"a hash that is none of the file's": {[]string{"diff", "--from-url", web.URL, "--sha256", strings.Repeat("0", 64)}, 1, "somebody has changed one of the two"},
		"a schema":                          {[]string{"schema"}, 0, `"$schema"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut strings.Builder
			code := run(context.Background(), c.args, &out, &errOut)
			if said := out.String() + errOut.String(); code != c.code || !strings.Contains(said, c.says) {
				t.Errorf("exit code %d, want %d; want %q in:\n%s", code, c.code, c.says, said)
			}
		})
	}
}
