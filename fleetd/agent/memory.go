package agent

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"sync"

	"github.com/fleet-init/fleet/internal/unit"
)

// Memory is a Disk for tests and the simulator. It outlives the agents that use it, as a disk does.
type Memory struct {
	mu     sync.Mutex // guards all below
	units  map[unit.Name]OnDisk
	texts  map[unit.Name]string
	tokens map[unit.Name]int64
}

// NewMemory returns an empty one.
func NewMemory() *Memory {
	return &Memory{units: map[unit.Name]OnDisk{}, texts: map[unit.Name]string{}, tokens: map[unit.Name]int64{}}
}

// Path is the path that ReadFile knows.
func (m *Memory) Path(n unit.Name) string { return "/units/" + string(n) }

// ReadFile gives a unit's text by its path, for a fake systemd.
func (m *Memory) ReadFile(p string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.texts[unit.Name(path.Base(p))]
	if !ok {
		return nil, fmt.Errorf("read %s: %w", p, fs.ErrNotExist)
	}
	return []byte(text), nil
}

// Read, Write, Remove and Mark are as Dir's.
func (m *Memory) Read() (map[unit.Name]OnDisk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.units), nil
}

// Write keeps a text.
func (m *Memory) Write(n unit.Name, f *unit.File) error {
	if _, err := runnable(string(n)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := onDisk(n, f)
	o.Hash, o.Started, o.Restarted = f.Hash(), m.units[n].Started, m.units[n].Restarted
	m.units[n] = o
	m.texts[n], _ = printed(f)
	return nil
}

// Token keeps a unit's token.
func (m *Memory) Token(n unit.Name, token int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[n] = token
	return nil
}

// LastToken is what a unit's processes would read now.
func (m *Memory) LastToken(n unit.Name) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens[n]
}

// Remove forgets a unit.
func (m *Memory) Remove(n unit.Name) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.units, n)
	delete(m.texts, n)
	return nil
}

// Mark notes what was started.
func (m *Memory) Mark(n unit.Name, started unit.Hash, restarted int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.units[n]
	d.Started, d.Restarted = started, restarted
	if started == "" {
		d.Restarted = 0
	}
	if d == (OnDisk{}) {
		delete(m.units, n)
		return nil
	}
	m.units[n] = d
	return nil
}

// Reboot is what a reboot does: /run is empty.
func (m *Memory) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.units)
	clear(m.texts)
	clear(m.tokens)
}
