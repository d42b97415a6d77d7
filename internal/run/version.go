package run

import "runtime/debug"

// Version is the version of this program as the Go tool stamped it from the repository: a tag ("1.2.3"), or one made from
// the commit ("0.0.0-20260102150405-0123456789ab"), with "+dirty" if files were changed; "devel" without a repository.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return version(info)
}

func version(info *debug.BuildInfo) string {
	switch v := info.Main.Version; {
	case v == "" || v == "(devel)":
		return "devel"
	case v[0] == 'v':
		return v[1:]
	default:
		return v
	}
}
