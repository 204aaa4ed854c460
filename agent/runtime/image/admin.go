package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// AdminHandler serves what CRI has no call for:
//
//	POST /images/import          body: an archive; answers {"images": [...]}
//	POST /images/untag?ref=NAME  takes one name away
//
// An error is answered as {"error": "…"} with status 400 for a bad archive and 500 otherwise.
func AdminHandler(s *Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /images/import", func(w http.ResponseWriter, r *http.Request) {
		refs, err := s.Import(r.Context(), r.Body)
		answer(w, map[string]any{"images": refs}, err)
	})
	mux.HandleFunc("POST /images/untag", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{}, s.Untag(r.URL.Query().Get("ref")))
	})
	return mux
}

func answer(w http.ResponseWriter, body map[string]any, err error) {
	code := http.StatusOK
	if err != nil {
		body, code = map[string]any{"error": err.Error()}, http.StatusInternalServerError
		if errors.Is(err, ErrBadArchive) || errors.Is(err, ErrUnsafeLayer) {
			code = http.StatusBadRequest
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

// decodeBasic splits CRI's AuthConfig.auth: base64 of "user:password", perhaps padded with NULs.
func decodeBasic(auth string) (user, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", fmt.Errorf("auth is not base64 of user:password: %w", err)
	}
	user, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", errors.New("auth is not base64 of user:password")
	}
	return user, strings.Trim(password, "\x00"), nil
}
