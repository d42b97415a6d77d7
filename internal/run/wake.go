package run

// Wake returns a channel and the function that wakes whoever waits at it: it never blocks, and wakes that were not yet seen are one.
func Wake() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	return c, func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
