package fleet

import "strconv"

// InvalidError is wrong input from a user: what is wrong, where, and what to write instead. It is ErrInvalid.
type InvalidError struct {
	What string // "target state \"runing\""
	Hint string // "use inactive, loaded or launched"; may be empty
}

func (e *InvalidError) Error() string {
	if e.Hint == "" {
		return "invalid " + e.What
	}
	return "invalid " + e.What + ": " + e.Hint
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func quote(s string) string { return strconv.Quote(s) }
