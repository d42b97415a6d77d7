package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Error is a refusal as it stands on the wire: {"error":{"code":N,"message":"…"}}. errors.Is finds the meaning that its
// code has in the table below, at both ends.
type Error struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	if strings.TrimSpace(e.Message) == "" {
		return cmp.Or(http.StatusText(e.Code), fmt.Sprintf("HTTP status %d", e.Code))
	}
	return e.Message
}

// Is makes errors.Is(err, fleet.ErrNotFound) and its like true for the code they were sent as.
func (e *Error) Is(target error) bool {
	for _, row := range statuses() {
		if row.err == target {
			return row.code == e.Code
		}
	}
	return false
}

type status struct {
	err  error
	code int
}

// statuses is the one table of errors ↔ status. The first row that matches an error gives its status. A code may stand for
// several errors; a client then takes it for any of them.
func statuses() []status {
	return []status{
		{fleet.ErrInvalid, http.StatusBadRequest},
		{unit.ErrInvalid, http.StatusBadRequest},
		{fleet.ErrForbidden, http.StatusForbidden},
		{kv.ErrForbidden, http.StatusForbidden},
		{fleet.ErrNotFound, http.StatusNotFound},
		{fleet.ErrExists, http.StatusConflict},
		{fleet.ErrConflict, http.StatusConflict},
		{kv.ErrCompacted, http.StatusGone},
		{kv.ErrTooLarge, http.StatusRequestEntityTooLarge},
		{kv.ErrNoSpace, http.StatusInsufficientStorage},
		{kv.ErrUnavailable, http.StatusServiceUnavailable},
		{fleet.ErrNoStore, http.StatusServiceUnavailable},
		{context.DeadlineExceeded, http.StatusServiceUnavailable},
	}
}

// toError turns any error into one for the wire. An error that is in no row is ours: 500, with its text, so that the
// user can tell someone.
func toError(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	for _, row := range statuses() {
		if errors.Is(err, row.err) {
			return &Error{Code: row.code, Message: err.Error()}
		}
	}
	return &Error{Code: http.StatusInternalServerError, Message: err.Error()}
}

func refuse(code int, message string) *Error { return &Error{Code: code, Message: message} }
