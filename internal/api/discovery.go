package api

import (
	_ "embed" // the discovery document
	"net/http"
)

// discoveryDocument describes the requests of fleet v1 to clients that generate themselves from it (Google's REST discovery
// format). The added requests are not in it: such a client would take them for fleet's.
//
//go:embed discovery.json
var discoveryDocument []byte

func (h *handler) discovery(w http.ResponseWriter, _ *http.Request, _ string) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(discoveryDocument) // a failed write: the client is gone
	return nil
}
