package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// docs/coming-from-fleet.md promises much; each promise names a test. They have to be there, and no complaint may be left out.
func TestPromisesToFleetsUsersNameTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "coming-from-fleet.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t, root)
	word := regexp.MustCompile(`\bTest[A-Z][A-Za-z0-9]+`)
	for _, name := range word.FindAllString(string(text), -1) {
		if !there[name] {
			t.Errorf("there is no %s", name)
		}
	}
	next := 1
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		n, err := strconv.Atoi(strings.TrimSpace(cells[min(1, len(cells)-1)]))
		if err != nil {
			continue
		}
		if n != next {
			t.Errorf("row %d comes after row %d", n, next-1)
		}
		next = n + 1
		if !word.MatchString(line) && !strings.Contains(line, "issue ") && !strings.Contains(line, "not yet") {
			t.Errorf("row %d names no test, and does not say that it is not yet so", n)
		}
	}
	if next != 26 {
		t.Errorf("there are %d complaints, fleet's users had 25", next-1)
	}
}

// testNames finds all tests of this module.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	def := regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == ".cache" {
			return fs.SkipDir // whole systems, which may be running
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range def.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
