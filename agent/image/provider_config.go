package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	configv1 "k8s.io/kubelet/config/v1"
	"sigs.k8s.io/yaml"
)

const (
	providerGroup   = "credentialprovider.kubelet.k8s.io"
	providerVersion = providerGroup + "/v1"
)

// loadProviderConfig reads a CredentialProviderConfig (kubelet.config.k8s.io/v1, v1beta1 or v1alpha1) from a file, or
// from all *.json, *.yaml and *.yml files of a directory in their names' order.
func loadProviderConfig(path string) ([]configv1.CredentialProvider, error) {
	files := []string{path}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	if st.IsDir() {
		if files, err = configFiles(path); err != nil {
			return nil, err
		}
	}
	var out []configv1.CredentialProvider
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("credential provider config: %w", err)
		}
		providers, err := parseProviderConfig(data)
		if err != nil {
			return nil, fmt.Errorf("credential provider config %s: %w", f, err)
		}
		for _, p := range providers {
			if slices.ContainsFunc(out, func(o configv1.CredentialProvider) bool { return o.Name == p.Name }) {
				return nil, fmt.Errorf("credential provider config %s: duplicate provider name %q", f, p.Name)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func configFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".json" || ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("credential provider config: no configuration files found in directory %q", dir)
	}
	return files, nil
}

func parseProviderConfig(data []byte) ([]configv1.CredentialProvider, error) {
	var c configv1.CredentialProviderConfig
	plain, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(string(plain)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return nil, err
	}
	group, version, _ := strings.Cut(c.APIVersion, "/")
	if c.Kind != "CredentialProviderConfig" || group != "kubelet.config.k8s.io" || !slices.Contains([]string{"v1", "v1beta1", "v1alpha1"}, version) {
		return nil, fmt.Errorf("it is a %q of %q: write kind CredentialProviderConfig of kubelet.config.k8s.io/v1", c.Kind, c.APIVersion)
	}
	if len(c.Providers) == 0 {
		return nil, errors.New("providers: at least 1 item in plugins is required")
	}
	var errs []error
	for _, p := range c.Providers {
		for _, err := range checkProvider(p) {
			errs = append(errs, fmt.Errorf("provider %q: %w", p.Name, err))
		}
	}
	return c.Providers, errors.Join(errs...)
}

// checkProvider is pure; it returns all that is wrong.
func checkProvider(p configv1.CredentialProvider) (errs []error) {
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Name == "" || p.Name == "." || p.Name == ".." || strings.ContainsAny(p.Name, "/ ") {
		wrong("name: it must be a program's name, without '/' and spaces")
	}
	if !slices.Contains([]string{providerVersion, providerGroup + "/v1beta1", providerGroup + "/v1alpha1"}, p.APIVersion) {
		wrong("apiVersion %q: use %s", p.APIVersion, providerVersion)
	}
	if len(p.MatchImages) == 0 {
		wrong("matchImages: at least 1 item in matchImages is required")
	}
	for _, m := range p.MatchImages {
		if _, err := url.Parse("https://" + m); err != nil {
			wrong("matchImages: %q is invalid: %w", m, err)
		}
	}
	switch {
	case p.DefaultCacheDuration == nil:
		wrong("defaultCacheDuration: it is required")
	case p.DefaultCacheDuration.Duration < 0:
		wrong("defaultCacheDuration: must be greater than or equal to 0")
	}
	if p.TokenAttributes == nil {
		return errs
	}
	t := p.TokenAttributes
	if p.APIVersion != providerVersion {
		wrong("tokenAttributes: only supported for %s API version", providerVersion)
	}
	if t.ServiceAccountTokenAudience == "" {
		wrong("tokenAttributes.serviceAccountTokenAudience: it is required")
	}
	if t.RequireServiceAccount == nil {
		wrong("tokenAttributes.requireServiceAccount: it is required")
	} else if !*t.RequireServiceAccount && len(t.RequiredServiceAccountAnnotationKeys) > 0 {
		wrong("tokenAttributes.requiredServiceAccountAnnotationKeys: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set")
	}
	if t.CacheType != configv1.TokenServiceAccountTokenCacheType && t.CacheType != configv1.ServiceAccountServiceAccountTokenCacheType {
		wrong("tokenAttributes.cacheType %q: use ServiceAccount or Token", t.CacheType)
	}
	seen := map[string]bool{}
	for _, k := range slices.Concat(t.RequiredServiceAccountAnnotationKeys, t.OptionalServiceAccountAnnotationKeys) {
		for _, msg := range validation.IsQualifiedName(strings.ToLower(k)) {
			wrong("tokenAttributes: annotation key %q: %s", k, msg)
		}
		if seen[k] {
			wrong("tokenAttributes: annotation key %q is listed twice", k)
		}
		seen[k] = true
	}
	return errs
}
