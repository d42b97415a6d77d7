package kv

import (
	"github.com/google/btree"
)

// index holds keys in order. It is the part of Memory that makes a range of a prefix cost only what it returns.
type index struct {
	tree *btree.BTreeG[*KV]
}

// degree is google/btree's usual one: nodes of up to 63 entries.
const degree = 32

func newIndex() index {
	return index{btree.NewG(degree, func(x, y *KV) bool { return x.Key < y.Key })}
}

func (x *index) get(key string) *KV {
	kv, _ := x.tree.Get(&KV{Key: key})
	return kv
}

// put stores kv in place of what had its key. Entries are never changed in place, so those handed out before stay as they were.
func (x *index) put(kv *KV) { x.tree.ReplaceOrInsert(kv) }

func (x *index) delete(key string) { x.tree.Delete(&KV{Key: key}) }

// under returns copies of all entries that prefix covers, in key order.
func (x *index) under(prefix string) []KV {
	if !IsPrefix(prefix) {
		if kv := x.get(prefix); kv != nil {
			return []KV{*kv}
		}
		return nil
	}
	var out []KV
	x.tree.AscendRange(&KV{Key: prefix}, &KV{Key: after(prefix)}, func(kv *KV) bool {
		out = append(out, *kv)
		return true
	})
	return out
}

// after returns the first key behind all that start with prefix, which is not empty and ends in "/".
func after(prefix string) string {
	return prefix[:len(prefix)-1] + string(rune('/'+1))
}
