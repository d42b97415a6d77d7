package host

import (
	"context"
	"strings"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// addUser makes a user, with useradd. His groups are made if they are missing: a document names those of the software it installs.
func (h *Host) addUser(ctx context.Context, u document.User) error {
	names, err := h.names()
	if err != nil {
		return err
	}
	for _, g := range append(u.Groups, u.PrimaryGroup) {
		if _, there := names.groups[g]; there || g == "" || g == u.Name && !u.NoUserGroup && u.PrimaryGroup == "" {
			continue
		}
		argv := []string{"groupadd"}
		if u.System {
			argv = append(argv, "--system")
		}
		if _, err := h.exec(ctx, "", append(argv, g)...); err != nil {
			return err
		}
		names.groups[g] = -1
	}
	_, err = h.exec(ctx, "", useradd(u)...)
	return err
}

// useradd is its command line. The password is set by another step: arguments are for everybody to see.
func useradd(u document.User) []string {
	argv := []string{"useradd"}
	put := func(ok bool, words ...string) {
		if ok {
			argv = append(argv, words...)
		}
	}
	put(u.Gecos != "", "--comment", u.Gecos)
	put(u.Homedir != "", "--home-dir", u.Homedir)
	put(u.NoCreateHome, "--no-create-home")
	put(!u.NoCreateHome, "--create-home")
	put(u.PrimaryGroup != "", "--gid", u.PrimaryGroup)
	put(u.PrimaryGroup == "" && u.NoUserGroup, "--no-user-group")
	put(u.PrimaryGroup == "" && !u.NoUserGroup, "--user-group")
	put(len(u.Groups) > 0, "--groups", strings.Join(u.Groups, ","))
	put(u.System, "--system")
	put(u.NoLogInit, "--no-log-init")
	put(true, "--shell", shell(u))
	return append(argv, u.Name)
}

func shell(u document.User) string {
	if u.Shell != "" {
		return u.Shell
	}
	return "/bin/bash"
}
