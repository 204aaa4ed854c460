package network

import "testing"

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{"10M": 10e6, "1Gi": 1 << 30, "512": 512, "1.5k": 1500} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "fast", "-1M", "0", "10X"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
