package api

import (
	"context"
	"net/http"
)

// Route is a path of the API that main brings along (Config.More): its methods return an error instead of writing one, and item is what
// stands behind the path's slash, "" where the path has none. docs/openapi.json is of the routes that this package has itself.
type Route = route

// Reply writes one JSON answer.
func Reply(w http.ResponseWriter, code int, v any) { reply(w, code, v) }

// Refuse is an error with its status.
func Refuse(code int, message string) error { return refuse(code, message) }

// Body reads a request's body up to limit bytes.
func Body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	return body(w, r, limit)
}

// Do makes one request of a route that is not this package's: path is relative to /fleet/v1/, in and out are JSON, in may be nil.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	return c.do(ctx, method, path, in, out)
}
