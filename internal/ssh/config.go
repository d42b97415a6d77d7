package ssh

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// readConfig reads a configuration of OpenSSH's client. Of Match blocks only those by host name (Match host, Match all) can be read;
// the others, which OpenSSH decides by running programs or by who asks, are told of and apply to no host, so that they do not take the
// rest of the file with them.
func readConfig(path string, notice func(string)) (*ssh_config.Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if !isForeignMatch(line) {
			continue
		}
		notice(fmt.Sprintf("%s:%d: %q is left out: fleetctl reads Host, Match host and Match all", path, i+1, strings.TrimSpace(line)))
		lines[i] = "Host !*" // a pattern that nothing fits
	}
	return ssh_config.DecodeBytes([]byte(strings.Join(lines, "\n")))
}

// isForeignMatch tells whether a line begins a Match block with a condition that the reader does not know.
func isForeignMatch(line string) bool {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '=' || r == '\r' })
	if len(words) < 2 || !strings.EqualFold(words[0], "match") {
		return false
	}
	if strings.EqualFold(words[1], "all") && len(words) == 2 {
		return false
	}
	// "Match host a user b" has a second condition, which would be taken for more host names.
	conditions := []string{"exec", "user", "localuser", "originalhost", "localnetwork", "canonical", "final", "tagged", "version", "command", "sessiontype"}
	return !strings.EqualFold(words[1], "host") || slices.ContainsFunc(words[2:], func(w string) bool {
		return slices.Contains(conditions, strings.ToLower(strings.TrimPrefix(w, "!")))
	})
}
