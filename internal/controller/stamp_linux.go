package controller

import (
	"io/fs"
	"syscall"
)

// identify notes which file it is, and when anything of it changed last.
func (s *stamp) identify(info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed, s.device, s.inode = st.Ctim.Nano(), uint64(st.Dev), st.Ino
	}
}
