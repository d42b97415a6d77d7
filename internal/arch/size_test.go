package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// The sizes of docs/style.md, where a person notices only too late.
const (
	maxFile = 500
	maxFunc = 80
	maxMain = 15
)

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, f := range p.GoFiles {
			checkSize(t, strings.TrimPrefix(p.ImportPath, module)+"/"+f, filepath.Join(p.Dir, f))
		}
	}
}

func checkSize(t *testing.T, name, path string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	if n := fset.Position(file.End()).Line; n > maxFile {
		t.Errorf("%s has %d lines, at most %d: it is two files", name, n, maxFile)
	}
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		most := maxFunc
		if fn.Name.Name == "main" && file.Name.Name == "main" {
			most = maxMain
		}
		if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > most {
			t.Errorf("%s: %s has %d lines, at most %d: it does more than one thing", name, fn.Name.Name, n, most)
		}
	}
}
