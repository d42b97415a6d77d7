package fleettest

import (
	"os"
	"path/filepath"
	"testing"
)

// Programs written for fleet's API, in plain curl and jq, find it as they know it.
func TestPlainCurlDrivesTheAPI(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("../../curl/*.sh")
	if err != nil || len(scripts) < 6 {
		t.Fatalf("scripts %v, %v", scripts, err)
	}
	r := boot(t, 1, "token_limit = 3\n")
	files := map[string]string{}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		r.must(err)
		files["/root/curl/"+filepath.Base(path)] = string(text)
	}
	r.must(r.Host(1).WriteFiles(r.ctx, files))
	for _, path := range scripts {
		name := filepath.Base(path)
		if name == "lib.sh" {
			continue
		}
		r.sub(name, func(r *rig) {
			if _, err := r.Host(1).Run(r.ctx, "sh", "/root/curl/"+name); err != nil {
				r.t.Error(err)
			}
		})
	}
}
