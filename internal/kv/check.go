package kv

import "fmt"

// MaxBytes is the most bytes of keys and values one Txn may carry and still be sure to pass etcd's default request limit of
// 1.5 MiB, which counts the encoding around them too.
const MaxBytes = 1 << 20

// CheckTxn refuses what no store takes: more than MaxOps guards or ops (ErrTooLarge), an empty key, a key in two ops. Every Store
// calls it first, so that a caller's mistake shows in tests over Memory, not first in etcd.
func CheckTxn(guards []Guard, ops []Op) error {
	if len(guards) > MaxOps || len(ops) > MaxOps {
		return fmt.Errorf("transaction of %d guards and %d ops, at most %d: %w", len(guards), len(ops), MaxOps, ErrTooLarge)
	}
	for _, g := range guards {
		if g.Key == "" {
			return fmt.Errorf("transaction: guard without key")
		}
	}
	seen := make(map[string]struct{}, len(ops))
	for _, op := range ops {
		if op.Key == "" {
			return fmt.Errorf("transaction: op without key")
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("transaction: key %s stands in two ops", op.Key)
		}
		seen[op.Key] = struct{}{}
	}
	return nil
}

// Holds tells whether the guard holds for its key as read: cur is the key's state, nil if it does not exist. Memory uses it, and
// callers that want to know which guard of a refused transaction did not hold.
func (g Guard) Holds(cur *KV) bool {
	if cur == nil {
		return g.Kind == Missing
	}
	switch g.Kind {
	case Exists:
		return true
	case ModIs:
		return cur.Mod == g.Rev
	case CreateIs:
		return cur.Create == g.Rev
	case ValueIs:
		return string(cur.Value) == string(g.Val)
	}
	return false
}

// Covers tells whether key lies under prefix, in the sense of Range and Watch: a prefix that does not end in "/" covers
// exactly itself.
func Covers(prefix, key string) bool {
	if !IsPrefix(prefix) {
		return prefix == key
	}
	return len(key) >= len(prefix) && key[:len(prefix)] == prefix
}

// IsPrefix tells whether s names all keys that start with it, rather than one exact key.
func IsPrefix(s string) bool { return s != "" && s[len(s)-1] == '/' }
