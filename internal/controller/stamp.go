package controller

import (
	"os"
	"time"
)

// timesCoarse is the longest that two changes of a file may be apart and leave it with the same times: FAT counts in two seconds.
const timesCoarse = 2 * time.Second

// stamp is how a file looks without being read. Links are followed, as editors and config maps use them.
type stamp struct {
	size          int64
	modified      int64 // in nanoseconds; who copies a file may set it to anything
	changed       int64 // the same of its inode, which nobody can set; 0: not known
	device, inode uint64
	trouble       string // why it could not be looked at
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{trouble: err.Error()}
	}
	s := stamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	s.identify(info)
	return s
}

// tells reports whether a file that looks so and is read at a time or later cannot change without looking otherwise. One that
// changed just before could change once more within the same tick of its file system's clock.
func (s *stamp) tells(at time.Time) bool {
	return s.changed != 0 && at.UnixNano()-max(s.modified, s.changed) > int64(timesCoarse)
}
