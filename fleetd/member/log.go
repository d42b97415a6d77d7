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

// etcd is talkative: a peer that restarts is worth a dozen warnings to it. What an operator would tell a colleague goes
// through, once in ten minutes each; all else is debug.
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
	// Whether a warning is loud depends on its message: Check decides.
	return l >= zapcore.WarnLevel || c.log.Enabled(context.Background(), slog.LevelDebug)
}

func (c slogCore) With(f []zapcore.Field) zapcore.Core { return slogCore{c.log.With(attrs(f)...)} }

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.log.Enabled(context.Background(), level(e.Level, e.Message)) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c slogCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	l := level(e.Level, e.Message)
	for _, a := range f {
		if err, ok := a.Interface.(error); ok && l == slog.LevelWarn && strings.Contains(err.Error(), "context canceled") {
			l = slog.LevelDebug // it is we who go
		}
	}
	c.log.Log(context.Background(), l, "etcd: "+e.Message, attrs(f)...)
	return nil
}

func (c slogCore) Sync() error { return nil }

// level is ours for one of etcd's messages.
func level(l zapcore.Level, message string) slog.Level {
	starts := func(s string) bool { return strings.HasPrefix(message, s) }
	switch {
	case l < zapcore.WarnLevel:
		return slog.LevelDebug
	case l > zapcore.ErrorLevel: // it ends the process
		return slog.LevelError
	case l == zapcore.WarnLevel:
		if slices.ContainsFunc([]string{
			"peer became inactive",
			"slow fdatasync",
			"leader failed to send out heartbeat on time",
			"prober found high clock drift",
			"message exceeded backend quota",
			"found data inconsistency",
			"the local etcd version",
		}, starts) {
			return slog.LevelWarn
		}
		return slog.LevelDebug
	}
	if slices.ContainsFunc([]string{
		"setting up serving from embedded etcd failed", // the listener was closed: we stop
		"creating peer listener failed",                // we say so ourselves, with what to do
		"clientv3/retry_interceptor: getToken failed",  // the caller gets the error
		"bootstrap failed",                             // likewise
		"rejecting promote learner",                    // likewise
		"failed to update storage version",             // tried again until the first snapshot
	}, starts) {
		return slog.LevelDebug
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
