package rig

import "syscall"

// diesWithParent has the kernel end a process with its parent, however that ends.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
