package controller

import (
	"testing"
	"time"
)

func TestAClockThatWasSetIsNoticed(t *testing.T) {
	now := time.Now()
	var k clock
	if by := k.set(now); by != 0 {
		t.Errorf("set by %s before it was ever looked at", by)
	}
	if by := k.set(now.Add(time.Hour)); by != 0 {
		t.Errorf("an hour that passed set it by %s", by)
	}
	k.wall = k.wall.Add(-10 * time.Minute) // as if it had been 10 minutes earlier then
	if by := k.set(now.Add(2 * time.Hour)); by != 10*time.Minute {
		t.Errorf("it was set by %s, not 10m", by)
	}
	if by := k.set(now.Add(3 * time.Hour)); by != 0 {
		t.Errorf("it was set by %s once more", by)
	}
	k.wall = k.wall.Add(time.Minute)
	if by := k.set(now.Add(4 * time.Hour)); by != -time.Minute {
		t.Errorf("it was set back by %s, not 1m", by)
	}
}
