package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/update-engine/trust"
)

func keys(ctx context.Context, j job) error {
	verbs := []row{
		{"keys new", "FILE", "", keysNew},
		{"keys init", "DIR --root FILES --targets FILES --online FILES", "", keysInit},
		{"keys rotate", "DIR --root FILES --targets FILES --online FILES --sign FILES", "", keysRotate},
		{"keys root", "DIR", "", keysRoot},
		{"keys pending", "DIR", "", keysPending},
		{"keys sign", "DIR --keys FILES", "", keysSign},
		{"keys commit", "DIR --keys ONLINE", "", keysCommit},
	}
	if len(j.args) > 0 {
		for _, v := range verbs {
			if v.name == "keys "+j.args[0] {
				j.command, j.args = v, j.args[1:]
				return v.run(ctx, j)
			}
		}
	}
	text := "say what to do with keys:"
	for _, v := range verbs {
		text += "\n  update-engine " + v.name + " " + v.args
	}
	return errors.New(text)
}

// keysNew writes a new private key, and its public half beside it. A file that is there is not overwritten: it may be the only copy.
func keysNew(_ context.Context, j job) error {
	f, _ := j.flags()
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	k, err := trust.NewKey()
	if err != nil {
		return err
	}
	private, public, err := k.PEM()
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name string
		b    []byte
		mode os.FileMode
	}{{f.Arg(0), private, 0o600}, {f.Arg(0) + ".pub", public, 0o644}} {
		out, err := os.OpenFile(x.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, x.mode)
		if err != nil {
			return err
		}
		_, err = out.Write(x.b)
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

// roleFlags are the flags that say who may sign; the function reads the keys.
func roleFlags(f *pflag.FlagSet) func() (trust.Roles, error) {
	root := f.StringSlice("root", nil, "key files of the root role: who may replace keys")
	targets := f.StringSlice("targets", nil, "key files of the targets role: who may publish")
	online := f.StringSlice("online", nil, "key files of the online role: who says what is the newest")
	rootN := f.Int("root-threshold", 1, "how many root keys must sign")
	targetsN := f.Int("targets-threshold", 1, "how many targets keys must sign")
	return func() (trust.Roles, error) {
		r := trust.Roles{RootThreshold: *rootN, TargetsThreshold: *targetsN}
		var err, all error
		r.Root, err = readKeys(*root)
		all = errors.Join(all, err)
		r.Targets, err = readKeys(*targets)
		all = errors.Join(all, err)
		r.Online, err = readKeys(*online)
		return r, errors.Join(all, err)
	}
}

func keysInit(_ context.Context, j job) error {
	f, _ := j.flags()
	roles := roleFlags(f)
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	r, err := roles()
	if err != nil {
		return err
	}
	return trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}.Init(r, time.Now())
}

func keysRotate(_ context.Context, j job) error {
	f, _ := j.flags()
	roles := roleFlags(f)
	sign := f.StringSlice("sign", nil, "private key files: enough old root keys, beside the new keys")
	propose := f.Bool("propose", false, "only propose it: others sign with keys sign, then keys commit")
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	r, err := roles()
	if err != nil {
		return err
	}
	old, err := readKeys(*sign)
	if err != nil {
		return err
	}
	all := append(append(append(old, r.Root...), r.Targets...), r.Online...)
	repo := trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}
	if *propose {
		return repo.ProposeRotate(r, all, time.Now())
	}
	return repo.Rotate(r, all, time.Now())
}

// keysRoot prints the root metadata: what images carry as /usr/share/fleet/root.json.
func keysRoot(_ context.Context, j job) error {
	f, _ := j.flags()
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	b, err := trust.Repo{Dir: f.Arg(0)}.Root()
	if err == nil {
		_, err = fmt.Fprintf(j.stdout, "%s", b)
	}
	return err
}

// keysPending shows the change that waits for signatures.
func keysPending(_ context.Context, j job) error {
	f, _ := j.flags()
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	list, err := trust.Repo{Dir: f.Arg(0)}.Pending()
	if err != nil {
		return err
	}
	for _, w := range list {
		ready := "waits"
		if w.Enough() {
			ready = "ready"
		}
		fmt.Fprintf(j.stdout, "%s %d: %d of %d signatures, %s\n", w.Role, w.Version, len(w.Signed), w.Need, ready)
		for _, k := range w.Keys {
			mark := " "
			if slices.Contains(w.Signed, k) {
				mark = "x"
			}
			fmt.Fprintf(j.stdout, "  [%s] key %s\n", mark, k[:12])
		}
		for _, c := range w.Changes {
			fmt.Fprintf(j.stdout, "  %s\n", c)
		}
	}
	return nil
}

// keysSign adds one person's signature to the pending change. What is signed is shown first by keys pending.
func keysSign(_ context.Context, j job) error {
	return withKeys(j, "private key files", func(r trust.Repo, keys []trust.Key) error { return r.Sign(keys) })
}

// keysCommit puts the pending change in place.
func keysCommit(_ context.Context, j job) error {
	return withKeys(j, "the online key's private file", func(r trust.Repo, keys []trust.Key) error { return r.Commit(keys, time.Now()) })
}

func withKeys(j job, help string, do func(trust.Repo, []trust.Key) error) error {
	f, _ := j.flags()
	files := f.StringSlice("keys", nil, help)
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	keys, err := readKeys(*files)
	if err != nil {
		return err
	}
	return do(trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}, keys)
}
