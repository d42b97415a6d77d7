package peers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/update-engine/payload"
)

// Cache keeps frames by their hash, one file each. When there are more bytes than Max, or the disk is nearly full, the oldest go.
type Cache struct {
	Dir string
	Max int64
	// Free says how full the disk is: the bytes that are free, and those there are at all. nil: nobody asks.
	Free func(dir string) (free, all int64, err error)
}

// old is when a frame is of no use any more: rollouts are over by then.
const old = 7 * 24 * time.Hour

// Tidy removes what is old, and what a crash left half written.
func (c Cache) Tidy(now time.Time) error {
	list, err := os.ReadDir(c.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		info, ierr := e.Info()
		if ierr != nil {
			continue // it has just gone
		}
		if now.Sub(info.ModTime()) > old || strings.HasPrefix(e.Name(), temp) {
			if rerr := os.Remove(filepath.Join(c.Dir, e.Name())); !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}

// temp begins the name of a frame that is being written.
const temp = "new"

func (c Cache) path(sum payload.Hash) string { return filepath.Join(c.Dir, sum.String()) }

// Get gives a frame; what the disk has spoiled is as good as not there.
func (c Cache) Get(s payload.Span) ([]byte, error) {
	b, err := os.ReadFile(c.path(s.Sum))
	if err == nil && payload.Sum(b) != s.Sum {
		err = payload.ErrContent
	}
	return b, err
}

// Put keeps a frame.
func (c Cache) Put(s payload.Span, b []byte) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	if err := c.makeRoom(int64(len(b))); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.Dir, temp+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(s.Sum))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

func (c Cache) makeRoom(n int64) error {
	list, err := os.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	type file struct {
		name string
		size int64
		at   time.Time
	}
	var files []file
	total, most := n, c.Max
	for _, e := range list {
		if info, err := e.Info(); err == nil { // else it has just gone
			files = append(files, file{e.Name(), info.Size(), info.ModTime()})
			total += info.Size()
		}
	}
	if c.Free != nil {
		free, all, err := c.Free(c.Dir)
		if err != nil {
			return err
		}
		// An eighth of the disk is left to others, whatever Max says.
		most = min(most, total-n+free-all/8)
	}
	if n > most {
		return fmt.Errorf("a frame of %d bytes does not fit into a cache of %d", n, most)
	}
	slices.SortFunc(files, func(a, b file) int { return a.at.Compare(b.at) })
	for _, f := range files {
		if total <= most {
			break
		}
		if err := os.Remove(filepath.Join(c.Dir, f.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		total -= f.size
	}
	return nil
}
