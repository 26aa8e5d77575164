package rollout

import (
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Container is one attempt of a version that canaryd runs itself.
type Container struct {
	Version string
	Attempt int
	Image   string
	Run     bool // else: to be stopped
}

// Containers are what is to run, and what is to be stopped. An ended version is stopped only when its
// cut is in force, so that no request is lost to it.
func (s *State) Containers() []Container {
	var cs []Container
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.Image == "" || v.Stopped {
			continue
		}
		c := Container{v.Name, v.Attempt, v.Image, v.Phase.Live() && (v.Phase != Queued || len(v.Endpoints) > 0)}
		if c.Run || !v.Phase.Live() && (s.InForce || s.Subscribers == 0) {
			cs = append(cs, c)
		}
	}
	return cs
}

// launched takes in what became of a version's containers.
func (m *machine) launched(e Launched) {
	v := m.Version(e.Version)
	if v == nil || v.Image == "" || v.Attempt != e.Attempt {
		return
	}
	switch {
	case e.Stopped:
		if !v.Phase.Live() {
			v.Stopped, v.Launching = true, ""
			m.record(v, KindStopped, System, "its containers are stopped and removed%s", lastLines(e.Logs))
		}
	case e.Failed && v.Phase.Waiting():
		m.fail(v, analysis.Unreachable, "%s", e.Note)
	case len(e.Endpoints) > 0 && v.Phase.Live():
		first := v.LaunchedAt.IsZero()
		v.Launching, v.LaunchedAt = "", m.at
		if slices.Equal(v.Endpoints, e.Endpoints) || policy.EndpointList(e.Endpoints) != nil {
			return
		}
		v.Endpoints = slices.Clone(e.Endpoints)
		m.touch()
		if first {
			m.record(v, KindLaunched, System, "runs at %s", strings.Join(v.Endpoints, ", "))
		} else {
			m.record(v, KindEndpoints, System, "its containers are now at %s", strings.Join(v.Endpoints, ", "))
		}
	default:
		v.Launching = e.Note
		if v.Phase == Warming && e.Note != "" {
			m.verdict(v, analysis.Wait, analysis.Unreachable, "%s", e.Note)
		}
	}
}

// startedTooSlowly fails a version whose containers run, but do not answer.
func (m *machine) startedTooSlowly(v *Version) {
	d := m.Policy.Docker
	if v.Image == "" || d == nil || v.LaunchedAt.IsZero() || v.Reachable || !v.FirstWeight.IsZero() || m.at.Sub(v.LaunchedAt) < d.StartWithin.Std() {
		return
	}
	m.fail(v, analysis.Unreachable, "its containers run, but nothing answers at %s for %s (docker.start_within): does it listen on port %d of all addresses?",
		strings.Join(v.Endpoints, ", "), d.StartWithin, d.Port)
}

func lastLines(logs string) string {
	if logs == "" {
		return ""
	}
	return "; their last lines:\n" + logs
}
