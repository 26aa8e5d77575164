package world

import (
	"runtime"
	"sync"
)

// Runs does something for each of n runs, on all cores; it returns when all are done.
func Runs(n int, do func(i int)) {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				do(i)
			}
		})
	}
	wg.Wait()
}
