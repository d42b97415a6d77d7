package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// NewServer returns the HTTP server fleetd runs h on, one for all its sockets. When ctx ends every request's context
// does, so that open watches let a Shutdown finish.
//
// The limits are for clients that send slowly or not at all; a handler that streams lifts them for its connection.
func NewServer(ctx context.Context, h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20, // a watch names its units in the query
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
