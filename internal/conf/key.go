package conf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Key is one setting. Make it with one of the functions below, which bind it to a typed field and set that to the default.
type Key struct {
	Name  string // "agent_ttl"
	Usage string // one line for --help
	// Gone, if not empty, makes it a key of old that is accepted and has no effect; Gone says why, as a warning.
	Gone string

	flag bool // on the command line it may stand without a value
	show string
	// set reads text into the field; warn is something the user should know although text was accepted.
	set func(text string) (warn string, err error)
}

// Default is what the setting is if nobody sets it, as text; "" where that goes without saying.
func (k Key) Default() string {
	if k.show == "false" || k.show == "0" {
		return ""
	}
	return k.show
}

func bind[T any](name string, field *T, def T, usage string, parse func(string) (T, error)) Key {
	*field = def
	return Key{Name: name, Usage: usage, show: show(def), set: func(text string) (string, error) {
		v, err := parse(text)
		if err != nil {
			return "", err
		}
		*field = v
		return "", nil
	}}
}

// show prints a default for --help; the zero value prints as nothing.
func show(v any) string {
	switch v := v.(type) {
	case []string:
		return strings.Join(v, ",")
	case netip.Addr, netip.Prefix, map[string]string:
		return ""
	}
	return fmt.Sprint(v)
}

// String is a text taken as it is.
func String(name string, field *string, def, usage string) Key {
	return bind(name, field, def, usage, func(s string) (string, error) { return s, nil })
}

// Word is one of the words in allowed.
func Word(name string, field *string, def, usage string, allowed ...string) Key {
	return bind(name, field, def, usage, func(s string) (string, error) {
		for _, a := range allowed {
			if s == a {
				return s, nil
			}
		}
		return "", fmt.Errorf("use one of %s", strings.Join(allowed, ", "))
	})
}

// Int is a whole number from lo to hi.
func Int(name string, field *int, def, lo, hi int, usage string) Key {
	return bind(name, field, def, usage, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < lo || n > hi {
			return 0, fmt.Errorf("use a whole number from %d to %d", lo, hi)
		}
		return n, nil
	})
}

// Bool is true or false; the flag alone means true.
func Bool(name string, field *bool, def bool, usage string) Key {
	k := bind(name, field, def, usage, func(s string) (bool, error) {
		b, err := strconv.ParseBool(strings.ToLower(s))
		if err != nil {
			return false, fmt.Errorf("use true or false")
		}
		return b, nil
	})
	k.flag = true
	return k
}

// Duration is a span of at least lo: "10s", "1m30s", or a bare number, which fleet's file used for seconds ("2", "0.5").
func Duration(name string, field *time.Duration, def, lo time.Duration, usage string) Key {
	return bind(name, field, def, usage, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			d, err = time.ParseDuration(s + "s")
		}
		if err != nil {
			return 0, fmt.Errorf(`use a span of time such as "10s" or "1m30s", or a number of seconds`)
		}
		if d < lo {
			return 0, fmt.Errorf("use at least %s", lo)
		}
		return d, nil
	})
}

// Addr is an IP address; empty is none (the zero Addr).
func Addr(name string, field *netip.Addr, usage string) Key {
	return bind(name, field, netip.Addr{}, usage, func(s string) (netip.Addr, error) {
		if s == "" {
			return netip.Addr{}, nil
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, fmt.Errorf(`use an IP address such as "10.0.0.1"`)
		}
		return a.Unmap(), nil
	})
}

// Network is an IP address, read as a network of one, or a network ("10.0.0.0/24"); empty is none (the zero Prefix).
func Network(name string, field *netip.Prefix, usage string) Key {
	return bind(name, field, netip.Prefix{}, usage, func(s string) (netip.Prefix, error) {
		if s == "" {
			return netip.Prefix{}, nil
		}
		if a, err := netip.ParseAddr(s); err == nil {
			a = a.Unmap()
			return netip.PrefixFrom(a, a.BitLen()), nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf(`use an IP address such as "10.0.0.1", or a network such as "10.0.0.0/24"`)
		}
		return p.Masked(), nil
	})
}

// Strings is a list: a,b or ["a","b"]; empty items are dropped. check, which may be nil, refuses an item.
func Strings(name string, field *[]string, def []string, usage string, check func(string) error) Key {
	return bind(name, field, def, usage, func(s string) ([]string, error) {
		items, err := list(s)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			if check == nil {
				break
			}
			if err := check(item); err != nil {
				return nil, fmt.Errorf("%q: %w", item, err)
			}
		}
		return items, nil
	})
}

// Map is k=v,k=v; of two values for a key the later counts. What has no "=" is left out with a warning, as fleet did.
func Map(name string, field *map[string]string, usage string) Key {
	*field = map[string]string{}
	return Key{Name: name, Usage: usage, set: func(s string) (string, error) {
		m, bad := map[string]string{}, []string{}
		for item := range strings.SplitSeq(s, ",") {
			k, v, ok := strings.Cut(item, "=")
			k, v = strings.TrimSpace(k), strings.TrimSpace(v)
			switch {
			case ok && k != "":
				m[k] = v
			case strings.TrimSpace(item) != "":
				bad = append(bad, strconv.Quote(strings.TrimSpace(item)))
			}
		}
		*field = m
		if len(bad) > 0 {
			return "left out " + strings.Join(bad, ", ") + ": write each as key=value", nil
		}
		return "", nil
	}}
}

// Gone is a key of old that has no effect any more; why completes "<key> has no effect: ...".
func Gone(name, why string) Key {
	return Key{Name: name, Usage: "no effect: " + why, Gone: why, flag: true, set: func(string) (string, error) { return "", nil }}
}

// list splits a,b and ["a","b"]. Quotes around an item are optional in both, since people mix them.
func list(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "[") {
		if !strings.HasSuffix(s, "]") {
			return nil, fmt.Errorf(`the list has no closing ]; use a,b or ["a","b"]`)
		}
		s = s[1 : len(s)-1]
	}
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		item, err := unquote(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		if item != "" {
			items = append(items, item)
		}
	}
	return items, nil
}

// unquote takes one pair of quotes off; inside there is no escape, as in fleet's file.
func unquote(s string) (string, error) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		return s, nil
	}
	if len(s) < 2 || s[len(s)-1] != s[0] {
		return "", fmt.Errorf("the quote %c is not closed", s[0])
	}
	return s[1 : len(s)-1], nil
}
