package payload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Copy fetches a whole payload file to a path, every frame and the index checked. A file that is there in full size is taken as
// done: its name never stands for other content.
func Copy(ctx context.Context, from Source, im Image, f File, to string) error {
	if info, err := os.Stat(to); err == nil && info.Size() == f.Size {
		return nil
	}
	x, err := ReadIndex(ctx, from, im, f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(to), "new*")
	if err != nil {
		return err
	}
	err = x.copy(ctx, from, f, out)
	err = errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("copy %s: %w", f.Name, err), os.Remove(out.Name()))
	}
	return err
}

func (x Index) copy(ctx context.Context, from Source, f File, out *os.File) error {
	var spans []Span
	for _, fr := range x.Frames {
		if fr.WireLen > 0 {
			spans = append(spans, Span{fr.WireOff, int64(fr.WireLen), fr.Wire})
		}
	}
	err := from.Fetch(ctx, f.Name, spans, func(i int, b []byte) error {
		if Sum(b) != spans[i].Sum {
			return fmt.Errorf("frame at %d: %w", spans[i].Off, ErrContent)
		}
		_, err := out.WriteAt(b, spans[i].Off)
		return err
	})
	if err != nil {
		return err
	}
	_, err = out.WriteAt(x.tail(), f.Index.Off-skipHead)
	return err
}
