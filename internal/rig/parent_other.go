//go:build !linux

package rig

import "syscall"

// diesWithParent is more than other kernels offer: what a killed demo leaves behind is to be ended by hand.
func diesWithParent() *syscall.SysProcAttr { return nil }
