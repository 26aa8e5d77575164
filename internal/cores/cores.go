// Package cores says on how many threads the Go code of this process runs at once.
package cores

import (
	"os"
	"runtime"
)

// least is how many threads run Go code, however few cores there are.
const least = 4

// Share lets the kernel share few cores out. Where there are as many threads as cores, and these are two, Go's collector and
// whatever else is busy keep both for 10 to 25 ms at a time, and a cut waits for that; the kernel gives a thread that wakes its
// turn at once.
func Share() {
	if n := threads(runtime.NumCPU(), runtime.GOMAXPROCS(0), os.Getenv("GOMAXPROCS")); n > 0 {
		runtime.GOMAXPROCS(n)
	}
}

// threads is how many there are to be; 0: as many as there are. What an operator asks for stands, and where a container
// may use fewer cores than the machine has, more threads would use its time up sooner, and then all of them would stand still.
// Of a limit below two cores Go does not tell: more threads use that up no sooner, where there are but two cores to run them.
func threads(cores, now int, asked string) int {
	if asked != "" || now < cores || now >= least {
		return 0
	}
	return least
}
