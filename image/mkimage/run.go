package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options are the inputs of an image, beside the packages and the files in image/.
type options struct {
	install string // what build.sh install made
	init    string // the initramfs's process 1
	source  string // the folder image/
	cache   string // trees by the hash of what they are made from
	out     string // where the results go

	version string
	epoch   int64  // the time of everything in the image
	words   string // the kernel's command line, but for what names slot and release
	slot    int64  // bytes
	esp     int64
	state   int64

	trust     string // root metadata of releases
	key, cert string // for Secure Boot
	tree      bool   // only the root tree
	relock    bool
	locked    bool
}

const mib = 1 << 20

// defaultWords are what the kernel of every release is told. gpt_auto: the initramfs mounts what there is to mount, and nobody the ESP.
// no_timer_check: on an emulated machine whose processors wait for their turn the kernel's look at the timer fails, and it panics.
const defaultWords = "console=tty0 console=ttyS0 quiet panic=5 oops=panic no_timer_check rw systemd.gpt_auto=no"

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := pflag.NewFlagSet("mkimage", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.install, "install", "", "folder with our binaries and units, as build.sh install makes it")
	f.StringVar(&o.init, "init", "", "the program image/init")
	f.StringVar(&o.source, "source", "image", "the folder image of the source")
	f.StringVar(&o.cache, "cache", ".cache/image", "what is kept between builds")
	f.StringVar(&o.out, "out", ".cache/image/out", "where the results go")
	f.StringVar(&o.version, "version", "0.1.0", "semantic version of the release")
	f.StringVar(&o.words, "options", defaultWords, "the kernel's command line")
	slot, esp, state := f.Int64("slot-size", 384, "MiB of each slot"), f.Int64("esp-size", 96, "MiB of the ESP"),
		f.Int64("state-size", 256, "MiB of the state partition in the image; it grows to the disk's end at the first boot")
	f.StringVar(&o.trust, "trust", "", "root.json of the releases that hosts with this image take (update-engine keys root)")
	f.StringVar(&o.key, "sb-key", "", "private key for Secure Boot (PEM)")
	f.StringVar(&o.cert, "sb-cert", "", "its certificate (PEM)")
	f.BoolVar(&o.tree, "tree", false, "make the root tree only")
	f.BoolVar(&o.relock, "relock", false, "take the newest packages and write packages.lock anew")
	f.BoolVar(&o.locked, "locked", false, "fail if the package source no longer has the versions of packages.lock")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.slot, o.esp, o.state = *slot*mib, *esp*mib, *state*mib
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.install == "" || o.init == "":
		return o, fmt.Errorf("--install and --init are needed: ./build.sh image gives them")
	case (o.key == "") != (o.cert == ""):
		return o, fmt.Errorf("--sb-key and --sb-cert go together")
	case strings.ContainsAny(o.words+o.version, "\r\n"):
		return o, fmt.Errorf("a line break in --options or --version")
	}
	return o, nil
}

// run makes everything, each step from the results of the steps before it.
func run(args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := o.tools(); err != nil {
		return err
	}
	for _, p := range []*string{&o.install, &o.init, &o.source, &o.cache, &o.out} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	b := &builder{options: o, log: stderr, begin: time.Now()}
	if b.lock, err = readLock(filepath.Join(o.source, "packages.lock")); err != nil {
		return err
	}
	b.epoch = b.lock.epoch
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		if b.epoch, err = strconv.ParseInt(s, 10, 64); err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH=%q: seconds since 1970 are meant", s)
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func() error
	}{{"Debian's part", b.debian}, {"root tree", b.root}, {"/usr", b.usr}, {"kernel image", b.uki}, {"disk", b.disk}, {"bill of materials", b.sbom}}
	if o.tree {
		steps = steps[:2]
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(stderr, "%6.1fs %s\n", time.Since(b.begin).Seconds(), s.name)
	}
	return b.report(stdout)
}

// builder is one build: the options, and what each step leaves for the next.
type builder struct {
	options
	log   io.Writer
	begin time.Time
	lock  lock

	base    string // Debian's part: root/, kernel/, packages
	rootDir string // the root tree
	image   string // /usr with its verity tree
	hashAt  int64
	hash    string // root hash
	kernel  string // the UKI
	raw     string // the disk
}

// result is the path of a result.
func (b *builder) result(format string) string {
	return filepath.Join(b.out, fmt.Sprintf(format, b.version))
}
