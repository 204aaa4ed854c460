package iptables

import (
	"context"
	"errors"
)

// RemoveChains takes away the nat and filter chains that mine names, and the rules that jump to them. Without iptables
// there are none, which is success.
func RemoveChains(ctx context.Context, mine func(chain string) bool) error {
	run, err := Find()
	if errors.Is(err, ErrNotInstalled) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, table := range []string{"nat", "filter"} {
		have, err := run.Save(ctx, table)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if lines := have.Remove(mine); lines != "" {
			errs = append(errs, run.Restore(ctx, []byte("*"+table+"\n"+lines+"COMMIT\n")))
		}
	}
	return errors.Join(errs...)
}
