package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/imageref"
)

// The records of pulls are files in the form that upstream's kubelet writes (kubelet.config.k8s.io/v1beta1
// ImagePullIntent and ImagePulledRecord), so that a node may change its kubelet and keep them.
const recordVersion = "kubelet.config.k8s.io/v1beta1"

type pullIntent struct {
	metav1.TypeMeta `json:",inline"`
	Image           string `json:"image"`
}

type pulledRecord struct {
	metav1.TypeMeta   `json:",inline"`
	LastUpdatedTime   metav1.Time                `json:"lastUpdatedTime"`
	ImageRef          string                     `json:"imageRef"`
	CredentialMapping map[string]pullCredentials `json:"credentialMapping,omitempty"` // by image name without tag and digest
}

// pullCredentials say who may use an image, since they have pulled it.
type pullCredentials struct {
	Secrets   []pullSecret  `json:"kubernetesSecrets,omitempty"`
	Accounts  []pullAccount `json:"kubernetesServiceAccounts,omitempty"`
	Everybody bool          `json:"nodePodsAccessible,omitempty"`
}

type pullSecret struct {
	UID            string `json:"uid"`
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	CredentialHash string `json:"credentialHash"`
}

type pullAccount struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// maxNoted bounds how many secrets a record gets without a pull of their own.
const maxNoted = 100

// records are the files. They aren't synced: what is lost costs a pull more, never one less, since an intent that is
// older than its image is on the disk when the image is.
type records struct {
	dir string
}

func openRecords(dir string) (*records, error) {
	r := &records{dir: dir}
	for _, d := range []string{"pulling", "pulled"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("records of image pulls: %w", err)
		}
		half, _ := filepath.Glob(filepath.Join(dir, d, "*.tmp")) // a write that a crash cut off
		for _, f := range half {
			_ = os.Remove(f)
		}
	}
	return r, nil
}

func (r *records) path(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(r.dir, kind, "sha256-"+hex.EncodeToString(sum[:]))
}

func write(path string, object any) error {
	data, err := json.Marshal(object)
	if err != nil {
		return err
	}
	if err = os.WriteFile(path+".tmp", data, 0o600); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp") // a full disk leaves half of it
	}
	return err
}

// read decodes a record; false means that there is none.
func read(path, kind string, object any, meta *metav1.TypeMeta) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	if err := json.Unmarshal(data, object); err != nil {
		return true, fmt.Errorf("%s: %w", path, err)
	}
	if meta.Kind != kind || !strings.HasPrefix(meta.APIVersion, "kubelet.config.k8s.io/") {
		return true, fmt.Errorf("%s is a %s of %s, not a %s", path, meta.Kind, meta.APIVersion, kind)
	}
	return true, nil
}

func (r *records) intend(image string) error {
	return write(r.path("pulling", image), pullIntent{metav1.TypeMeta{Kind: "ImagePullIntent", APIVersion: recordVersion}, image})
}

func (r *records) intended(image string) (bool, error) {
	var i pullIntent
	found, err := read(r.path("pulling", image), "ImagePullIntent", &i, &i.TypeMeta)
	return found && i.Image == image, err
}

func (r *records) forget(image string) error {
	err := os.Remove(r.path("pulling", image))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// intents lists the pulls that the agent before this one didn't see the end of. Damaged ones are left out.
func (r *records) intents() []string {
	var out []string
	r.each("pulling", func(path string) {
		var i pullIntent
		if found, err := read(path, "ImagePullIntent", &i, &i.TypeMeta); found && err == nil {
			out = append(out, i.Image)
		}
	})
	return out
}

func (r *records) each(kind string, f func(path string)) {
	entries, err := os.ReadDir(filepath.Join(r.dir, kind))
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "sha256-") && !strings.HasSuffix(e.Name(), ".tmp") {
			f(filepath.Join(r.dir, kind, e.Name()))
		}
	}
}

// pulled returns the record of an image; false means that there is none, an error that it can't be trusted.
func (r *records) pulled(ref string) (pulledRecord, bool, error) {
	var p pulledRecord
	found, err := read(r.path("pulled", ref), "ImagePulledRecord", &p, &p.TypeMeta)
	return p, found && p.ImageRef == ref, err
}

// note adds who has pulled an image. No credentials at all make a record that lets nobody in unasked.
func (r *records) note(image, ref string, who *pullCredentials, now time.Time) error {
	name, err := untagged(image)
	if err != nil {
		return err
	}
	p, found, err := r.pulled(ref)
	if !found || err != nil {
		p = pulledRecord{TypeMeta: metav1.TypeMeta{Kind: "ImagePulledRecord", APIVersion: recordVersion}, ImageRef: ref}
	}
	if p.CredentialMapping == nil {
		p.CredentialMapping = map[string]pullCredentials{}
	}
	if who != nil {
		had, known := p.CredentialMapping[name]
		now, changed := merge(had, *who)
		if !changed && known {
			return nil
		}
		p.CredentialMapping[name] = now
	} else if found {
		return nil
	}
	p.LastUpdatedTime = metav1.NewTime(now)
	return write(r.path("pulled", ref), p)
}

// merge adds credentials to what a record has. Everybody includes all others; a secret that has changed replaces its
// older self.
func merge(had, add pullCredentials) (pullCredentials, bool) {
	if had.Everybody {
		return had, false
	}
	if add.Everybody {
		return pullCredentials{Everybody: true}, true
	}
	out, changed := had, false
	for _, s := range add.Secrets {
		i := slices.IndexFunc(out.Secrets, func(o pullSecret) bool { return o.UID == s.UID && o.Namespace == s.Namespace && o.Name == s.Name })
		switch {
		case i < 0:
			out.Secrets, changed = append(slices.Clone(out.Secrets), s), true
		case out.Secrets[i] != s:
			out.Secrets = slices.Clone(out.Secrets)
			out.Secrets[i], changed = s, true
		}
	}
	for _, a := range add.Accounts {
		if !slices.Contains(out.Accounts, a) {
			out.Accounts, changed = append(slices.Clone(out.Accounts), a), true
		}
	}
	return out, changed
}

// prune removes records of images that are gone, if they are older than the list of those that are there.
func (r *records) prune(there func(ref string) bool, listed time.Time) {
	r.each("pulled", func(path string) {
		var p pulledRecord
		if found, err := read(path, "ImagePulledRecord", &p, &p.TypeMeta); found && err == nil && p.LastUpdatedTime.Time.Before(listed) && !there(p.ImageRef) {
			_ = os.Remove(path) // the next time, then
		}
	})
}

// untagged strips tag and digest off an image as the pod spells it.
func untagged(image string) (string, error) {
	bare, err := imageref.Trim(image)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", image, err)
	}
	return bare, nil
}
