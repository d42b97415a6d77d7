package engine

import (
	"cmp"
	"slices"
)

// phase orders the work of a turn: first all that frees machines, then all that fills them.
type phase uint8

const (
	check  phase = iota // may it stay where it is? withdraw, update, end handovers
	move                // find a machine
	spread              // one global unit on one machine
	giveUp              // no machine was found for a unit that has copies
)

// item is one piece of work.
type item struct {
	phase phase
	u     *record
	m     *machine // spread only
}

func compareItems(a, b item) int {
	if c := cmp.Compare(a.phase, b.phase); c != 0 || a.u == b.u && a.m == b.m {
		return c
	}
	if c := cmp.Compare(a.u.name, b.u.name); c != 0 || a.m == b.m {
		return c
	}
	if a.m == nil || b.m == nil {
		return cmp.Compare(0, 1) // cannot be: items of one phase all have a machine, or none has
	}
	return cmp.Compare(a.m.id, b.m.id)
}

// queue yields items in order. What is known at the start of a turn is sorted once, which for a million units is much cheaper
// than a heap; what a turn adds goes through the heap.
type queue struct {
	sorted  []item
	at      int // sorted[:at] is done
	heap    []item
	running bool
}

func (q *queue) push(it item) {
	if q.running {
		pushHeap(&q.heap, it, compareItems)
	} else {
		q.sorted = append(q.sorted, it)
	}
}

func (q *queue) start() {
	slices.SortFunc(q.sorted, compareItems)
	q.running = true
}

// stop makes the emptied queue ready for the next turn.
func (q *queue) stop() {
	clear(q.sorted) // let go of the records
	if cap(q.sorted) > 1<<16 {
		q.sorted = nil // the first turn over a large cluster needed it; the next ones are small
	}
	*q = queue{sorted: q.sorted[:0]}
}

func (q *queue) peek() (it item, ok bool) {
	switch {
	case q.at == len(q.sorted) && len(q.heap) == 0:
		return item{}, false
	case len(q.heap) == 0 || q.at < len(q.sorted) && compareItems(q.sorted[q.at], q.heap[0]) <= 0:
		return q.sorted[q.at], true
	}
	return q.heap[0], true
}

func (q *queue) pop() {
	if len(q.heap) == 0 || q.at < len(q.sorted) && compareItems(q.sorted[q.at], q.heap[0]) <= 0 {
		q.at++
		return
	}
	popHeap(&q.heap, compareItems)
}

func compareNames(a, b *record) int { return cmp.Compare(a.name, b.name) }

func pushName(h *[]*record, u *record) { pushHeap(h, u, compareNames) }
func popName(h *[]*record)             { popHeap(h, compareNames) }

// pushHeap and popHeap keep the least element of h first. (container/heap would box every item.)
func pushHeap[T any](h *[]T, x T, compare func(a, b T) int) {
	*h = append(*h, x)
	a := *h
	for i := len(a) - 1; i > 0; {
		up := (i - 1) / 2
		if compare(a[up], a[i]) <= 0 {
			return
		}
		a[up], a[i] = a[i], a[up]
		i = up
	}
}

func popHeap[T any](h *[]T, compare func(a, b T) int) {
	a := *h
	n := len(a) - 1
	a[0] = a[n]
	var none T
	a[n] = none
	a = a[:n]
	*h = a
	for i := 0; ; {
		least := i
		for _, down := range [2]int{2*i + 1, 2*i + 2} {
			if down < n && compare(a[down], a[least]) < 0 {
				least = down
			}
		}
		if least == i {
			return
		}
		a[i], a[least] = a[least], a[i]
		i = least
	}
}
