package volume

import (
	"context"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

func TestSelectBundles(t *testing.T) {
	bundles := map[string]bundle{
		"named":     {certs: []string{"n"}},
		"s:alive":   {signer: "s/x", labels: map[string]string{"live": "yes"}, certs: []string{"b", "a"}},
		"s:dead":    {signer: "s/x", labels: map[string]string{"live": "no"}, certs: []string{"c", "a"}},
		"t:foreign": {signer: "t/x", certs: []string{"z"}},
	}
	all := &metav1.LabelSelector{}
	for name, tc := range map[string]struct {
		src  corev1.ClusterTrustBundleProjection
		want string
		err  error
	}{
		"by name":               {corev1.ClusterTrustBundleProjection{Name: ptr("named")}, "n", nil},
		"no such name":          {corev1.ClusterTrustBundleProjection{Name: ptr("x")}, "", apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundle"), "x")},
		"no such name, may be":  {corev1.ClusterTrustBundleProjection{Name: ptr("x"), Optional: ptr(true)}, "", nil},
		"signer, everything":    {corev1.ClusterTrustBundleProjection{SignerName: ptr("s/x"), LabelSelector: all}, "abc", nil},
		"signer, by label":      {corev1.ClusterTrustBundleProjection{SignerName: ptr("s/x"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}}, "ab", nil},
		"no selector: nothing":  {corev1.ClusterTrustBundleProjection{SignerName: ptr("s/x")}, "", errNoBundles},
		"nothing, may be":       {corev1.ClusterTrustBundleProjection{SignerName: ptr("s/x"), Optional: ptr(true)}, "", nil},
		"neither name nor sign": {corev1.ClusterTrustBundleProjection{}, "", errors.New("ClusterTrustBundle projection requires either name or signerName to be set")},
	} {
		got, err := selectBundles(bundles, &tc.src)
		if strings.Join(got, "") != tc.want || (err == nil) != (tc.err == nil) || err != nil && err.Error() != tc.err.Error() {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, err, tc.want, tc.err)
		}
	}
}

// signers is a small working signer: it answers each request when asked to.
type signers struct {
	mu       sync.Mutex
	requests int
	watch    *watch.RaceFreeFakeWatcher
	last     *certificatesv1.PodCertificateRequest
}

func (s *signers) RequestPodCertificate(_ context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	out := r.DeepCopy()
	out.Name = "req-1"
	s.watch, s.last = watch.NewRaceFreeFake(), out
	s.watch.Add(out.DeepCopy())
	return out, nil
}

func (s *signers) WatchPodCertificate(context.Context, string, string) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watch, nil
}

func (s *signers) answer(kind, chain string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Status.Conditions = []metav1.Condition{{Type: kind, Reason: "R", Message: "M"}}
	s.last.Status.CertificateChain = chain
	s.last.Status.BeginRefreshAt, s.last.Status.NotAfter = ptr(metav1.NewTime(time.Now().Add(time.Hour))), ptr(metav1.NewTime(time.Now().Add(2*time.Hour)))
	s.watch.Modify(s.last.DeepCopy())
}

func (s *signers) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func TestPodCertificates(t *testing.T) {
	v, _ := setup(t)
	s := &signers{}
	v.certs.api = s
	told := make(chan struct{}, 4)
	v.cfg.Retry = func(types.UID) { told <- struct{}{} }
	p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "s/x", KeyType: "ED25519", CredentialBundlePath: "bundle.pem", CertificateChainPath: "chain.pem"}},
	}}}})
	if err := v.Mount(t.Context(), p); !errors.Is(err, errNotIssued) {
		t.Fatalf("before the answer: %v", err)
	}
	eventually(t, "the request", func() bool { return s.asked() == 1 })
	if err := v.Mount(t.Context(), p); !errors.Is(err, errNotIssued) || s.asked() != 1 {
		t.Fatalf("a second try: %v, %d requests", err, s.asked())
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("der")}))
	s.answer(certificatesv1.PodCertificateRequestConditionTypeIssued, "noise\n"+cert)
	<-told
	dir := mount(t, v, p)["v0"]
	if got := read(t, dir+"/chain.pem"); got != cert {
		t.Errorf("chain %q", got)
	}
	if got := read(t, dir+"/bundle.pem"); !strings.HasPrefix(got, "-----BEGIN PRIVATE KEY-----") || !strings.HasSuffix(got, cert) {
		t.Errorf("bundle %q", got)
	}
	if _, err := os.Stat(dir + "/key.pem"); err == nil {
		t.Error("a file that wasn't asked for")
	}
	denied := pod(p.Spec.Volumes...)
	denied.UID = "uid-2"
	if err := v.Mount(t.Context(), denied); !errors.Is(err, errNotIssued) {
		t.Fatal(err)
	}
	eventually(t, "the second request", func() bool { return s.asked() == 2 })
	s.answer(certificatesv1.PodCertificateRequestConditionTypeDenied, "")
	<-told
	if err := v.Mount(t.Context(), denied); err == nil || !strings.Contains(err.Error(), `permanently denied: reason="R" message="M"`) {
		t.Errorf("denied: %v", err)
	}
	if err := v.Unmount(t.Context(), denied.UID); err != nil {
		t.Fatal(err)
	}
}
