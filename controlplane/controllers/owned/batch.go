package owned

import (
	"context"
	"sync"
)

// SlowStart calls do for 0..n-1 in parallel batches of 1, 2, 4, … calls. It stops after the first batch with an error:
// if the API server refuses a pod, it would refuse all of them, and one refusal is enough noise. It returns how many
// calls succeeded and the first error.
func SlowStart(ctx context.Context, n int, do func(ctx context.Context, i int) error) (int, error) {
	done := 0
	for start, size := 0, 1; start < n; size *= 2 {
		end := min(start+size, n)
		ok, err := Parallel(ctx, end-start, func(ctx context.Context, i int) error { return do(ctx, start+i) })
		done += ok
		if err != nil {
			return done, err
		}
		start = end
	}
	return done, nil
}

// parallelism bounds the requests that one owner has under way at a time.
const parallelism = 32

// Parallel calls do for 0..n-1, all of them whatever happens, a bounded number at a time. It returns how many calls
// succeeded and the first error.
func Parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) (int, error) {
	if n == 1 {
		if err := do(ctx, 0); err != nil {
			return 0, err
		}
		return 1, nil
	}
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		first error
		done  int
		next  int
	)
	for range min(n, parallelism) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				err := do(ctx, i)
				mu.Lock()
				if err == nil {
					done++
				} else if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return done, first
}
