package ssh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys returns what checks a host's key, and which kinds of keys are known of it: a host offers one of several, and the kind that
// is known must be asked for. patience is not used up while the user thinks.
func (d *Dialer) hostKeys(addr string, patience *time.Timer) (ssh.HostKeyCallback, []string, error) {
	if !d.Strict {
		return ssh.InsecureIgnoreHostKey(), nil, nil // the user has said so
	}
	var files []string
	for _, f := range []string{d.KnownHosts, filepath.Join(d.Home, ".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"} {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read known hosts: %w", err)
	}
	return func(host string, remote net.Addr, key ssh.PublicKey) error {
		patience.Stop()
		defer patience.Reset(d.Timeout)
		return d.check(known(host, remote, key), host, key)
	}, kinds(known, addr), nil
}

// kinds asks with a key that nobody has; the refusal names those that are known.
func kinds(known ssh.HostKeyCallback, addr string) (list []string) {
	nobody, err := ssh.NewPublicKey(make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		return nil
	}
	// The address of the other end does not matter here: hosts are known by the name they are called by.
	var refused *knownhosts.KeyError
	if !errors.As(known(addr, &net.TCPAddr{IP: net.IPv4zero}, nobody), &refused) {
		return nil
	}
	for _, k := range refused.Want {
		if kind := k.Key.Type(); kind == ssh.KeyAlgoRSA {
			list = append(list, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			list = append(list, kind)
		}
	}
	return list
}

// check judges the answer of the known hosts: an unknown key is asked about, a wrong one refused.
func (d *Dialer) check(err error, host string, key ssh.PublicKey) error {
	var refused *knownhosts.KeyError
	if !errors.As(err, &refused) {
		return err // nil, or a revoked key
	}
	name, print := knownhosts.Normalize(host), ssh.FingerprintSHA256(key)
	if len(refused.Want) > 0 {
		want := refused.Want[0]
		return fmt.Errorf("WARNING: the host key of %s has changed to %s: somebody may be listening in on you, or the host was made anew. "+
			"If you know why, remove line %d of %s", name, print, want.Line, want.Filename)
	}
	if !d.Ask(fmt.Sprintf("The authenticity of host %s cannot be checked: its %s key %s is not known.\nConnect, and know it from now on (yes/no)? ", name, key.Type(), print)) {
		return fmt.Errorf("the host key %s is not known", print)
	}
	if err := remember(d.KnownHosts, knownhosts.Line([]string{host}, key)); err != nil {
		d.Notice(fmt.Sprintf("the key of %s is not kept: %v", name, err))
		return nil
	}
	d.Notice(fmt.Sprintf("Warning: the %s key of %s is known from now on, it is in %s", strings.TrimPrefix(key.Type(), "ssh-"), name, d.KnownHosts))
	return nil
}

func remember(file, line string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
