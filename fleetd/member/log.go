package member

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcd is talkative: what it calls info is our debug, and a warning that repeats (a peer is down: every few seconds) is one line
// in ten minutes.
const repeatAfter = 10 * time.Minute

// newZap makes the logger that etcd wants out of ours.
func newZap(log *slog.Logger) *zap.Logger {
	core := zapcore.NewSamplerWithOptions(slogCore{log}, repeatAfter, 1, 0)
	// The debug level must not be thinned out: it is read when something is searched for.
	return zap.New(split{loud: core, all: slogCore{log}})
}

// split sends warnings and worse through the sampler, the rest past it.
type split struct{ loud, all zapcore.Core }

func (s split) Enabled(l zapcore.Level) bool { return s.all.Enabled(l) }
func (s split) With(f []zapcore.Field) zapcore.Core {
	return split{s.loud.With(f), s.all.With(f)}
}
func (s split) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level >= zapcore.WarnLevel {
		return s.loud.Check(e, c)
	}
	return s.all.Check(e, c)
}
func (s split) Write(e zapcore.Entry, f []zapcore.Field) error { return s.all.Write(e, f) }
func (s split) Sync() error                                    { return nil }

type slogCore struct{ log *slog.Logger }

func (c slogCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), level(l, ""))
}

func (c slogCore) With(f []zapcore.Field) zapcore.Core { return slogCore{c.log.With(attrs(f)...)} }

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.log.Enabled(context.Background(), level(e.Level, e.Message)) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c slogCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	c.log.Log(context.Background(), level(e.Level, e.Message), "etcd: "+e.Message, attrs(f)...)
	return nil
}

func (c slogCore) Sync() error { return nil }

// level is ours for one of etcd's. Its errors are warnings here, since it goes on after them; what it does not survive is an
// error. Some warnings tell of nothing but our way to run it.
func level(l zapcore.Level, message string) slog.Level {
	switch {
	case l < zapcore.WarnLevel:
		return slog.LevelDebug
	case l > zapcore.ErrorLevel:
		return slog.LevelError
	}
	for _, harmless := range []string{
		"Running http and grpc server on single port",
		"retrying of unary invoker failed", // the caller gets the error and says so
		"simple token is not cryptographically signed",
	} {
		if strings.HasPrefix(message, harmless) {
			return slog.LevelDebug
		}
	}
	return slog.LevelWarn
}

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, len(enc.Fields))
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		out = append(out, slog.Any(k, enc.Fields[k]))
	}
	return out
}
