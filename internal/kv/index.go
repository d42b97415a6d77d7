package kv

import (
	"slices"
	"strings"
)

// leafMax is the most keys in one leaf of an index. With a million keys there are about two thousand leaves: a lookup is two
// binary searches, an insert moves a few kilobytes, and only one in some hundred inserts moves the list of leaves.
const leafMax = 1024

// index holds keys in order: a B-tree of two levels. It is the part of Memory that makes a range of a prefix cost only
// what it returns.
type index struct {
	leaves [][]*KV // none empty; all keys of a leaf lie before those of the next
}

// find returns the leaf that key is in or belongs into, and its place there.
func (x *index) find(key string) (leaf, at int, found bool) {
	leaf, _ = slices.BinarySearchFunc(x.leaves, key, func(l []*KV, key string) int {
		return strings.Compare(l[len(l)-1].Key, key)
	})
	if leaf == len(x.leaves) {
		if leaf == 0 {
			return 0, 0, false
		}
		leaf-- // past the last key: it is appended to the last leaf
	}
	at, found = slices.BinarySearchFunc(x.leaves[leaf], key, func(kv *KV, key string) int {
		return strings.Compare(kv.Key, key)
	})
	return leaf, at, found
}

func (x *index) get(key string) *KV {
	if leaf, at, found := x.find(key); found {
		return x.leaves[leaf][at]
	}
	return nil
}

// put stores kv in place of what had its key. Entries are never changed in place, so those handed out before stay as they were.
func (x *index) put(kv *KV) {
	leaf, at, found := x.find(kv.Key)
	if found {
		x.leaves[leaf][at] = kv
		return
	}
	if len(x.leaves) == 0 {
		x.leaves = [][]*KV{{kv}}
		return
	}
	l := slices.Insert(x.leaves[leaf], at, kv)
	x.leaves[leaf] = l
	if len(l) <= leafMax {
		return
	}
	// Keys often come in ascending order; then the left half would stay half empty for good, so the last leaf is cut near its end.
	cut := len(l) / 2
	if leaf == len(x.leaves)-1 && at == len(l)-1 {
		cut = len(l) - 1
	}
	right := slices.Clone(l[cut:])
	clear(l[cut:])
	x.leaves[leaf] = l[:cut]
	x.leaves = slices.Insert(x.leaves, leaf+1, right)
}

func (x *index) delete(key string) {
	leaf, at, found := x.find(key)
	if !found {
		return
	}
	x.leaves[leaf] = slices.Delete(x.leaves[leaf], at, at+1)
	if len(x.leaves[leaf]) == 0 {
		x.leaves = slices.Delete(x.leaves, leaf, leaf+1)
	}
}

// under returns copies of all entries that prefix covers, in key order.
func (x *index) under(prefix string) []KV {
	if !IsPrefix(prefix) {
		if kv := x.get(prefix); kv != nil {
			return []KV{*kv}
		}
		return nil
	}
	leaf, at, _ := x.find(prefix)
	end, endAt := len(x.leaves), 0
	if len(x.leaves) > 0 {
		end, endAt, _ = x.find(after(prefix))
	}
	// Counted first: growing a list of a million entries step by step costs more than finding them.
	n := -at
	for i := leaf; i < end; i++ {
		n += len(x.leaves[i])
	}
	out := make([]KV, 0, n+endAt)
	for ; leaf <= end && leaf < len(x.leaves); leaf, at = leaf+1, 0 {
		l := x.leaves[leaf]
		if leaf == end {
			l = l[:endAt]
		}
		for _, kv := range l[at:] {
			out = append(out, *kv)
		}
	}
	return out
}

// after returns the first key behind all that start with prefix, which is not empty and ends in "/".
func after(prefix string) string {
	return prefix[:len(prefix)-1] + string(rune('/'+1))
}
