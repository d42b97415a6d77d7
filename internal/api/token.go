package api

import (
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"net/url"
)

// maxPage is the last page a token can name: fleet's token is two 16-bit numbers. A longer list (65,535 pages of 100) is cut off
// there rather than begun anew, as fleet did.
const maxPage = 1<<16 - 1

// encodeToken makes fleet's page token: URL-safe base64 of limit and page, little-endian 16-bit each.
func encodeToken(limit, page uint16) string {
	var b [4]byte
	binary.LittleEndian.PutUint16(b[:2], limit)
	binary.LittleEndian.PutUint16(b[2:], page)
	return base64.URLEncoding.EncodeToString(b[:])
}

// decodeToken reads a token of a server whose pages hold limit entries. Tokens of a server with another limit are refused, as
// in fleet: their page numbers count something else.
func decodeToken(token string, limit uint16) (page uint16, err error) {
	b, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(b) != 4 {
		return 0, refuse(http.StatusBadRequest, "invalid value for nextPageToken: not a token of this server")
	}
	if binary.LittleEndian.Uint16(b[:2]) != limit {
		return 0, refuse(http.StatusBadRequest, "invalid value for nextPageToken: made by a server with another token_limit")
	}
	page = binary.LittleEndian.Uint16(b[2:])
	if page == 0 {
		return 0, refuse(http.StatusBadRequest, "invalid value for nextPageToken: pages count from 1")
	}
	return page, nil
}

// pageOf reads nextPageToken from the query; without it, the first page.
func pageOf(q url.Values, limit uint16) (uint16, error) {
	switch tokens := q["nextPageToken"]; len(tokens) {
	case 0:
		return 1, nil
	case 1:
		return decodeToken(tokens[0], limit)
	}
	return 0, refuse(http.StatusBadRequest, "too many values for nextPageToken: give one")
}

// cut returns page number n (from 1) of all, and the token of the next page. A list whose length is a multiple of limit has no
// empty last page.
func cut[T any](all []T, n, limit uint16) ([]T, string) {
	from := (int(n) - 1) * int(limit)
	if from >= len(all) {
		return nil, ""
	}
	to := from + int(limit)
	if to >= len(all) {
		return all[from:], ""
	}
	if n == maxPage {
		return all[from:to], ""
	}
	return all[from:to], encodeToken(limit, n+1)
}
