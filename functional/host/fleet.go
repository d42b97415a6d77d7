package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/pki"
)

// FleetFiles gives Options.Files for hosts that run fleetd from their first boot on, as one cluster with the built-in store: the
// first host makes it, of a CA made here, the others join through any of the first n by a token. conf is more lines for every fleet.conf,
// such as "agent_ttl = 5s\n".
func FleetFiles(n int, conf string) func(i int) map[string]string {
	seed, token := made()
	token.Endpoints = nil
	for o := 1; o <= n; o++ {
		token.Endpoints = append(token.Endpoints, fmt.Sprintf("h%d:2378", o))
	}
	return func(i int) map[string]string {
		files := map[string]string{
			"/etc/fleet/fleet.conf": "member_ip = " + network + "0/24\n" + conf,
		}
		if i == 1 {
			files["/var/lib/fleet/pki/seed.json"] = seed
		} else {
			files["/etc/credstore/fleet.join-token"] = token.String()
		}
		return files
	}
}

// made is the CA of all clusters that this process makes, and the token of its hosts: one, so that files of another call fit a cluster that
// is there.
var made = sync.OnceValues(func() (string, pki.Token) {
	seed, token, err := authority.NewSeed(time.Now(), authority.MaxUses, authority.MaxTTL, []string{"h1:2378"})
	if err != nil {
		panic(err) // a key could not be made: there is no test without
	}
	text, err := json.Marshal(seed)
	if err != nil {
		panic(err) // strings and times
	}
	return string(text), token
})

// moduleRoot is the folder of go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil && !slices.Contains(names(dir), "go.mod") {
		if dir == filepath.Dir(dir) {
			err = errors.New("there is no go.mod above this folder")
		}
		dir = filepath.Dir(dir)
	}
	return dir, err
}

// names returns what a folder holds.
func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
