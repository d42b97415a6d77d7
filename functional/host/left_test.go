package host

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// leftovers says what is left of a cluster on this machine, nil if nothing.
func leftovers(cgroups []string, id string) error {
	paths := []string{filepath.Join(runBase, id), filepath.Join(diskBase, id)}
	for _, root := range cgroups {
		found, _ := filepath.Glob(root + groupPrefix + id + ".*")
		paths = append(paths, found...)
	}
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return fmt.Errorf("%s is left", p)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil && strings.Contains(string(mounts), id) {
		err = fmt.Errorf("a mount is left: %s", mounts)
	}
	return err
}

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

func join(addrs []net.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}
