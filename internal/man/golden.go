package man

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Golden holds the file of a page in dir against the page; UPDATE_GOLDEN=1 writes it anew.
func Golden(t testing.TB, dir string, p Page) {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("%s.%d", p.Name, p.Section))
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(p.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != p.String() {
		t.Errorf("%s is not what help says: UPDATE_GOLDEN=1 go test .", path)
	}
}
