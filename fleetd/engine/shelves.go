package engine

import "math/bits"

// set is a set of machines by rank.
type set []uint64

func newSet(n int) set       { return make(set, (n+63)/64) }
func (s set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s set) remove(i int)   { s[i/64] &^= 1 << (i % 64) }
func (s set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }
func first(word uint64) int  { return bits.TrailingZeros64(word) }

func (s set) fill() {
	for i := range s {
		s[i] = ^uint64(0)
	}
}

// shelves hold the open machines by load: on shelf n stand those that carry n units, by rank. The least loaded machine that
// takes a unit is found by walking the shelves from below, 64 machines in one step.
type shelves struct {
	machines int
	rows     []set // nil where no machine stands
	count    []int
	low      int   // no machine stands below it
	spare    []set // emptied rows, for the next one needed
}

func newShelves(machines int) *shelves { return &shelves{machines: machines} }

func (s *shelves) add(rank, load int) {
	for len(s.rows) <= load {
		s.rows, s.count = append(s.rows, nil), append(s.count, 0)
	}
	if s.rows[load] == nil {
		if n := len(s.spare); n > 0 {
			s.rows[load], s.spare = s.spare[n-1], s.spare[:n-1]
		} else {
			s.rows[load] = newSet(s.machines)
		}
	}
	if !s.rows[load].has(rank) {
		s.rows[load].add(rank)
		s.count[load]++
	}
	s.low = min(s.low, load)
}

func (s *shelves) remove(rank, load int) {
	if load >= len(s.rows) || s.rows[load] == nil || !s.rows[load].has(rank) {
		return
	}
	s.rows[load].remove(rank)
	if s.count[load]--; s.count[load] == 0 {
		s.spare, s.rows[load] = append(s.spare, s.rows[load]), nil
		for s.low < len(s.rows) && s.count[s.low] == 0 {
			s.low++
		}
	}
}

// walk visits the machines by load and rank, with mask only those in it, until visit says stop. Visit may take machines
// out of mask.
func (s *shelves) walk(mask set, visit func(rank int) (stop bool)) {
	for load := s.low; load < len(s.rows); load++ {
		for i, word := range s.rows[load] {
			if mask != nil {
				word &= mask[i]
			}
			for ; word != 0; word &= word - 1 {
				if visit(i*64 + first(word)) {
					return
				}
			}
		}
	}
}
