package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The parts of SPDX 2.3 that we fill.
type spdx struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Version   string `json:"versionInfo"`
	Download  string `json:"downloadLocation"`
	Analyzed  bool   `json:"filesAnalyzed"`
	Checksums []sum  `json:"checksums,omitempty"`
	Refs      []ref  `json:"externalRefs,omitempty"`
}

type sum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// sbom lists all that is in the image: Debian's packages and, read from our programs, their Go modules.
func (b *builder) sbom() error {
	image, err := fileSum(b.image)
	if err != nil {
		return err
	}
	modules, err := b.modules()
	if err != nil {
		return err
	}
	doc := spdx{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "fleet-" + b.version,
		// The image's hash makes it unique, as SPDX wants, and the same for the same image.
		Namespace:     "https://github.com/fleet-init/fleet/image/" + b.version + "/" + image,
		Creation:      creation{time.Unix(b.epoch, 0).UTC().Format(time.RFC3339), []string{"Tool: fleet-mkimage"}},
		Packages:      []spdxPackage{{ID: "SPDXRef-image", Name: "fleet", Version: b.version, Download: "NOASSERTION", Checksums: []sum{{"SHA256", image}}}},
		Relationships: []relationship{{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"}}}
	add := func(id, name, version, purl string) {
		p := spdxPackage{ID: spdxID(id), Name: name, Version: version, Download: "NOASSERTION", Refs: []ref{{"PACKAGE-MANAGER", "purl", purl}}}
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relationship{"SPDXRef-image", "CONTAINS", p.ID})
	}
	for _, p := range b.lock.packages {
		add("deb-"+p.name, p.name, p.version, fmt.Sprintf("pkg:deb/debian/%s@%s?arch=amd64", p.name, p.version))
	}
	for _, m := range modules {
		path, version, _ := strings.Cut(m, " ")
		add("go-"+path, path, version, fmt.Sprintf("pkg:golang/%s@%s", path, version))
	}
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.result("fleet-%s.spdx.json"), append(text, '\n'), 0o644)
}

// spdxID is a name with what SPDX allows in one.
func spdxID(s string) string {
	return "SPDXRef-" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, s)
}

// modules lists the Go modules in our programs, "path version" each.
func (b *builder) modules() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(b.install, "usr/bin/*"))
	if err != nil {
		return nil, err
	}
	cni, err := filepath.Glob(filepath.Join(b.install, "usr/lib/cni/*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range append(append(files, cni...), b.init) {
		info, err := buildinfo.ReadFile(f)
		if err != nil {
			continue // a script
		}
		out = append(out, "stdlib "+strings.TrimPrefix(info.GoVersion, "go"))
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			out = append(out, d.Path+" "+d.Version)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// report prints what was made, its size, and what takes the room.
func (b *builder) report(w io.Writer) error {
	if b.tree {
		fmt.Fprintln(w, b.rootDir)
		return nil
	}
	for _, p := range []string{b.raw, b.image, b.kernel, b.result("fleet-%s.spdx.json")} {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		s, err := fileSum(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s  %7.1f MiB  %s\n", s[:16], float64(info.Size())/mib, p)
	}
	// What update-engine publish wants to know of the image.
	note := fmt.Sprintf("roothash=%s hash-at=%d\n", b.hash, b.hashAt)
	if err := os.WriteFile(b.result("usr-%s.env"), []byte(note), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(w, note)
	largest := slices.Clone(b.lock.packages)
	slices.SortStableFunc(largest, func(a, c pkg) int { return c.size - a.size })
	total := 0
	for _, p := range largest {
		total += p.size
	}
	fmt.Fprintf(w, "%d Debian packages, %d MiB unpacked; the largest:\n", len(largest), total/1024)
	for _, p := range largest[:min(10, len(largest))] {
		fmt.Fprintf(w, "  %-32s %5.1f MiB\n", p.name, float64(p.size)/1024)
	}
	return nil
}
