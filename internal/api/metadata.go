package api

import (
	"context"
	"net/http"
)

// MetadataChange is one operation of PATCH machines: op is add, remove or replace, path /<machine ID>/metadata/<key>.
type MetadataChange struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value,omitempty"`
}

// SetMetadata changes what machines' metadata say, at run time. One wrong operation refuses all.
func (c *Client) SetMetadata(ctx context.Context, changes ...MetadataChange) error {
	return c.do(ctx, http.MethodPatch, "machines", changes, nil)
}
