package satoken

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
)

// Paths of the discovery documents (OpenID Connect Discovery 1.0, section 4).
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Discovery serves the issuer's configuration and keys. External is the server's own address, used for the keys when
// the issuer's URL doesn't lead here.
func (i *Issuer) Discovery(external string) (map[string]http.Handler, error) {
	config, err := json.Marshal(map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              "https://" + external + KeysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the OpenID configuration: %w", err)
	}
	point, err := i.key.PublicKey.Bytes() // uncompressed: 0x04, then both coordinates
	if err != nil {
		return nil, fmt.Errorf("encode the service-account key: %w", err)
	}
	half := (len(point) - 1) / 2
	b64 := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"use": "sig", "kty": "EC", "kid": i.id, "crv": "P-256", "alg": "ES256",
		"x": b64(point[1 : 1+half]), "y": b64(point[1+half:]),
	}}})
	if err != nil {
		return nil, fmt.Errorf("encode the service-account keys: %w", err)
	}
	return map[string]http.Handler{
		ConfigurationPath: document("application/json", config),
		KeysPath:          document("application/jwk-set+json", keys),
	}, nil
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body)
	})
}
