package image

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Policy says for which images that are on the node already a pod must show that it could pull them
// (KubeletConfiguration's imagePullCredentialsVerificationPolicy).
type Policy string

// The policies, as upstream names them. NeverVerifyPreloaded is the default: what the agent has not pulled itself is
// there for all pods.
const (
	NeverVerify            Policy = "NeverVerify"
	NeverVerifyPreloaded   Policy = "NeverVerifyPreloadedImages"
	NeverVerifyAllowlisted Policy = "NeverVerifyAllowlistedImages"
	AlwaysVerify           Policy = "AlwaysVerify"
)

// verifier decides whether a pod may use an image without pulling it.
type verifier struct {
	policy Policy
	allow  []string
	recs   *records
	now    func() time.Time

	mu      sync.Mutex     // guards the files, too
	pulling map[string]int // images that are being pulled
}

func newVerifier(policy Policy, allow []string, dir string) (*verifier, error) {
	switch policy {
	case "":
		policy = NeverVerifyPreloaded
	case NeverVerify, NeverVerifyPreloaded, NeverVerifyAllowlisted, AlwaysVerify:
	default:
		return nil, fmt.Errorf("imagePullCredentialsVerificationPolicy %q: use NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify", policy)
	}
	for _, a := range allow {
		if err := checkAllowed(a); err != nil {
			return nil, fmt.Errorf("preloadedImagesVerificationAllowlist: %w", err)
		}
	}
	recs, err := openRecords(dir)
	if err != nil {
		return nil, err
	}
	return &verifier{policy: policy, allow: allow, recs: recs, now: time.Now, pulling: map[string]int{}}, nil
}

func checkAllowed(pattern string) error {
	name, wild := strings.CutSuffix(pattern, "/*")
	switch {
	case pattern != strings.TrimSpace(pattern):
		return fmt.Errorf("leading/trailing spaces are not allowed: %q", pattern)
	case name == "":
		return fmt.Errorf("%q: at least a registry's host name is required", pattern)
	case strings.Contains(name, "*"):
		return fmt.Errorf("not a valid wildcard pattern, only patterns ending with '/*' are allowed: %q", pattern)
	case wild:
		return nil
	}
	if plain, err := untagged(name); err != nil {
		return err
	} else if plain != name {
		return fmt.Errorf("neither tag nor digest is accepted in an image reference: %q", pattern)
	}
	return nil
}

// asks tells whether the policy wants proof at all.
func (v *verifier) asks(image string, pulledByUs bool) bool {
	switch v.policy {
	case NeverVerify:
		return false
	case NeverVerifyPreloaded:
		return pulledByUs
	case NeverVerifyAllowlisted:
		name, err := untagged(image)
		if err != nil {
			name = image
		}
		return !slices.ContainsFunc(v.allow, func(a string) bool {
			prefix, wild := strings.CutSuffix(a, "*")
			return name == a || wild && strings.HasPrefix(name, prefix)
		})
	}
	return true
}

// mustPull tells whether a pod has to pull an image that is on the node, since neither it nor the whole node is known to
// have access. logins is called only if they matter.
func (v *verifier) mustPull(image, ref string, logins func() ([]login, error)) (bool, error) {
	rec, creds, must := v.recorded(image, ref)
	if !rec {
		return must, nil
	}
	have, err := logins()
	if err != nil {
		return true, err
	}
	for _, l := range have {
		switch {
		case l.account != nil && slices.Contains(creds.Accounts, *l.account):
			return false, nil
		case l.secret == nil:
			continue
		}
		s := *l.secret
		s.CredentialHash = l.hash
		for _, known := range creds.Secrets {
			sameHash := known.CredentialHash != "" && known.CredentialHash == s.CredentialHash
			samePlace := known.UID == s.UID && known.Namespace == s.Namespace && known.Name == s.Name
			if !sameHash && (!samePlace || len(creds.Secrets) >= maxNoted) {
				continue
			}
			if sameHash != samePlace && len(creds.Secrets) < maxNoted { // the secret moved, or its content did: both count from now on
				v.mu.Lock()
				_ = v.recs.note(image, ref, &pullCredentials{Secrets: []pullSecret{s}}, v.now()) // it lets in without, too
				v.mu.Unlock()
			}
			return false, nil
		}
	}
	return true, nil
}

// recorded looks at the policy and the files. The first result tells whether a pod's own credentials decide.
func (v *verifier) recorded(image, ref string) (ask bool, creds pullCredentials, must bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, found, err := v.recs.pulled(ref)
	if err != nil {
		return false, creds, v.policy != NeverVerify // a record that can't be read must not let anybody in
	}
	ours := found || v.pulling[image] > 0
	if !ours {
		if ours, err = v.recs.intended(image); err != nil {
			return false, creds, v.policy != NeverVerify
		}
	}
	if !v.asks(image, ours) {
		return false, creds, false
	}
	name, err := untagged(image)
	if err != nil {
		return false, creds, true
	}
	creds, known := p.CredentialMapping[name]
	switch {
	case !found, !known, !creds.Everybody && len(creds.Secrets) == 0 && len(creds.Accounts) == 0:
		return false, creds, true
	case creds.Everybody:
		return false, creds, false
	}
	return true, creds, true
}

// begin notes that an image is going to be pulled, so that it isn't taken for a preloaded one if we die meanwhile.
func (v *verifier) begin(image string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.recs.intend(image); err != nil {
		return fmt.Errorf("failed to record image pull intent: %w", err)
	}
	v.pulling[image]++
	return nil
}

// end notes how a pull ended: ref is the image's ID, or "" if it failed; used what the registry accepted.
func (v *verifier) end(image, ref string, used *login) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ref != "" {
		// If the record can't be written the intent stays: the image must not pass for preloaded.
		if err := v.recs.note(image, ref, credentialsOf(used), v.now()); err != nil {
			return fmt.Errorf("record of the pull of %s: %w", image, err)
		}
	}
	if v.pulling[image]--; v.pulling[image] > 0 {
		return nil
	}
	delete(v.pulling, image)
	return v.recs.forget(image)
}

func credentialsOf(l *login) *pullCredentials {
	switch {
	case l == nil || l.secret == nil && l.account == nil:
		return &pullCredentials{Everybody: true}
	case l.secret != nil:
		s := *l.secret
		s.CredentialHash = l.hash
		return &pullCredentials{Secrets: []pullSecret{s}}
	}
	return &pullCredentials{Accounts: []pullAccount{*l.account}}
}

// adopt turns what an agent before this one left unfinished into records: an image that came meanwhile is one that was
// pulled, by nobody knows whom.
func (v *verifier) adopt(images map[string][]string) error { // image ID to its names
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, intent := range v.recs.intents() {
		if v.pulling[intent] > 0 {
			continue
		}
		full := fullName(intent)
		for id, names := range images {
			if !slices.Contains(names, full) && !slices.Contains(names, intent) {
				continue
			}
			if err := v.recs.note(intent, id, nil, v.now()); err != nil {
				return err
			}
			if err := v.recs.forget(intent); err != nil {
				return err
			}
		}
	}
	return nil
}
