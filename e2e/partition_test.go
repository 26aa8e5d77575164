package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

const halfForEver = "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {clump: 1, budget: 100000}\nafter_promotion: {watch: 1s}\n"

// machine is an Envoy with a network stack of its own, on the network of a yard.
type machine struct {
	t                   *testing.T
	name, space, canary string // node.id; network namespace; canaryd's port
	front               string
	users               *rig.Load
}

// machine starts the nth Envoy, from 1.
func (y *yard) machine(n int) *machine {
	y.t.Helper()
	_, port, err := net.SplitHostPort(y.XDS)
	if err != nil {
		y.t.Fatal(err)
	}
	m := &machine{t: y.t, name: fmt.Sprintf("edge-%d", n), space: fmt.Sprintf("%s-%d", y.service, n), canary: port}
	address, cable := fmt.Sprintf("%s.%d", y.subnet, 240+n), strings.Replace(m.space, "yard-", "y", 1)
	m.front = address + ":8080"
	bridge := "br-" + y.docker("network", "inspect", "-f", "{{.Id}}", y.service)[:12]
	m.shell("ip", "netns", "add", m.space)
	y.t.Cleanup(func() { m.shell("ip", "netns", "del", m.space) })
	m.shell("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", m.space)
	y.t.Cleanup(func() { m.shell("ip", "link", "del", cable) })
	m.shell("ip", "link", "set", cable, "master", bridge, "up")
	m.shell("ip", "-n", m.space, "address", "add", address+"/24", "dev", "eth0")
	m.shell("ip", "-n", m.space, "link", "set", "eth0", "up")
	m.shell("ip", "-n", m.space, "link", "set", "lo", "up")
	if _, _, err := y.StartEnvoyIn(y.t.Context(), m.space, address+":9901", m.name, "edge", nil); err != nil {
		y.t.Fatal(err)
	}
	return m
}

func (m *machine) shell(args ...string) {
	m.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// lose drops all that goes to canaryd or comes from it. Nobody is told: no connection is closed or reset.
func (m *machine) lose() {
	m.t.Helper()
	m.shell("ip", "netns", "exec", m.space, "iptables", "-w", "-A", "OUTPUT", "-p", "tcp", "--dport", m.canary, "-j", "DROP")
	m.shell("ip", "netns", "exec", m.space, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--sport", m.canary, "-j", "DROP")
}

// find mends that.
func (m *machine) find() {
	m.t.Helper()
	m.shell("ip", "netns", "exec", m.space, "iptables", "-w", "-F")
}

// sends is how many of a machine's users were answered by a version so far.
func (m *machine) sends(version string) int { return m.users.Count().ByName[version] }

// split is a yard with three machines whose users are on v1 and v2, half and half. The third one has just lost canaryd.
func split(t *testing.T) (y *yard, edges []*machine) {
	t.Helper()
	y = newYard(t, yardSetting{apart: true, policy: halfForEver})
	for n := range 3 {
		edges = append(edges, y.machine(n+1))
	}
	y.front = edges[0].front
	y.push(t, "v2")
	y.first(t)
	for _, m := range edges {
		y.until(10*time.Second, m.name+" to serve v1", func() bool { return rig.Answers("http://" + m.front + "/") })
		m.users = &rig.Load{URL: "http://" + m.front + "/", Rate: 50}
		m.users.Start(context.WithoutCancel(t.Context()))
		t.Cleanup(func() { m.users.Stop() })
	}
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(60*time.Second, "v2 to have half", func() bool { v := y.Version(y.service, "v2"); return v.Weight == 0.5 && v.InForce })
	y.until(10*time.Second, "users of the third to be on v2", func() bool { return edges[2].sends("v2") > 0 })
	edges[2].lose()
	return y, edges
}

// splitAndCut is a split yard where v2 has begun to fail, and is cut.
func splitAndCut(t *testing.T) (y *yard, edges []*machine) {
	t.Helper()
	y, edges = split(t)
	y.docker("kill", "--signal", "USR1", y.running("v2")[0])
	y.until(60*time.Second, "v2 to be cut, and that to be stored", func() bool { // what the history tells is stored
		return y.Version(y.service, "v2").Phase == rollout.Failed && strings.Contains(y.run(0, "history", y.service), "rolled_back")
	})
	return y, edges
}

// sendNothing waits until some machines send a version nothing any more.
func (y *yard) sendNothing(version string, edges ...*machine) {
	y.t.Helper()
	for _, m := range edges {
		y.until(30*time.Second, fmt.Sprintf("%s to send %s nothing", m.name, version), func() bool {
			before := m.sends(version)
			time.Sleep(time.Second) // 50 requests
			return m.sends(version) == before
		})
	}
}

// restart kills canaryd and starts it again.
func (y *yard) restart() {
	y.t.Helper()
	if err := y.Daemon().Signal(syscall.SIGKILL); err != nil {
		y.t.Fatal(err)
	}
	<-y.Daemon().Ended()
	if err := y.StartDaemon(context.WithoutCancel(y.t.Context())); err != nil {
		y.t.Fatal(err)
	}
}

// awaits checks that a version still runs, that `status` says for whom, and that `envoys` shows what that one has.
func (y *yard) awaits(m *machine, version string) {
	y.t.Helper()
	y.keeps(m, version)
	y.until(5*time.Second, "`envoys` to show what "+m.name+" has", func() bool {
		return regexp.MustCompile(m.name + ` .* v1 50%, v2 50%`).MatchString(y.run(0, "envoys", y.service))
	})
}

// keeps is awaits where nobody knows what the machine has.
func (y *yard) keeps(m *machine, version string) {
	y.t.Helper()
	if n := len(y.running(version)); n != 1 {
		y.t.Fatalf("%d containers of %s run while %s sends it users:\n%s", n, version, m.name, y.run(0, "history", y.service))
	}
	y.until(5*time.Second, "`status` to name "+m.name, func() bool {
		return may(version, m.name).MatchString(y.run(0, "status", y.service))
	})
}

// may is the warning that a machine which does not have the cut may still send users to a version.
func may(version, name string) *regexp.Regexp {
	return regexp.MustCompile(name + ` \((behind|lagging|gone)\) may still send users to ` + version)
}

// is waits until canaryd says how a machine stands.
func (y *yard) is(m *machine, standing string) {
	y.t.Helper()
	y.until(60*time.Second, m.name+" to be "+standing, func() bool {
		return regexp.MustCompile(m.name + ` .* ` + standing + ` `).MatchString(y.run(0, "envoys", y.service))
	})
}

// stops waits until a version's container does not run any more.
func (y *yard) stops(version string) {
	y.t.Helper()
	y.until(30*time.Second, version+"'s container to be stopped", func() bool { return len(y.running(version)) == 0 })
}

// unharmed checks that users only ever saw answers of the versions themselves.
func (m *machine) unharmed() (sent rig.Sent) {
	m.t.Helper()
	sent = m.users.Stop()
	m.t.Logf("%s: %s, by version %v", m.name, sent, sent.ByName)
	if sent.Broken > 0 || sent.ByName["v1"]+sent.ByName["v2"] != sent.Requests {
		m.t.Errorf("users of %s got no answer of a version: %s", m.name, sent)
	}
	return sent
}

// Only here an Envoy loses canaryd without a word and goes on serving: it is behind, and then gone, when the kernel gives up
// on the cut that nobody acknowledges (10 s and more). The others are cut at once; what the third one may still use runs until
// that is back and has the cut, and no user meets a container that has gone.
func TestACutOffEnvoyKeepsWhatItSendsUsersTo(t *testing.T) {
	t.Parallel()
	y, edges := splitAndCut(t)
	began := time.Now()
	y.sendNothing("v2", edges[:2]...)
	within(t, "the cut at the Envoys that hear it, with 2 s of looking", time.Since(began), 3*time.Second)
	y.awaits(edges[2], "v2")
	y.is(edges[2], "gone")
	t.Logf("the third was gone %.0f s after the cut", time.Since(began).Seconds())
	y.awaits(edges[2], "v2")
	before := edges[2].sends("v2")
	time.Sleep(3 * time.Second) // a pass of the containers, and more
	y.awaits(edges[2], "v2")
	if edges[2].sends("v2") == before {
		t.Error("the third Envoy sends v2 nothing: it was not cut off at all")
	}
	y.run(0, "deploy", y.service, "v9", "--endpoint", "127.0.0.1:9", "--paused") // so that all that is known by now is stored:
	y.restart()                                                                  // the third was sent the cut, and may have got it
	for _, m := range edges[:2] {
		y.is(m, "applied")
	}
	time.Sleep(3 * time.Second)
	y.keeps(edges[2], "v2")
	edges[2].find()
	began = time.Now()
	y.sendNothing("v2", edges[2])
	t.Logf("the third had the cut %.1f s after it found canaryd again", time.Since(began).Seconds())
	y.stops("v2")
	y.is(edges[2], "applied")
	if out := y.run(0, "status", y.service); may("v2", "edge-3").MatchString(out) {
		t.Errorf("status still warns:\n%s", out)
	}
	for _, m := range edges {
		m.unharmed()
	}
}

// Only here canaryd is killed between a cut and the Envoy that it did not reach: the next one knows whom to wait for.
func TestARestartRemembersWhoIsCutOff(t *testing.T) {
	t.Parallel()
	y, edges := splitAndCut(t)
	y.restart()
	for _, m := range edges[:2] {
		y.is(m, "applied")
	}
	y.is(edges[2], "gone")
	for range 5 {
		time.Sleep(time.Second)
		y.awaits(edges[2], "v2")
	}
	y.sendNothing("v2", edges[:2]...)
	edges[2].find()
	y.is(edges[2], "applied")
	y.stops("v2")
	y.sendNothing("v2", edges[2])
	for _, m := range edges {
		m.unharmed()
	}
}

// Only here the version that everybody left is the one that was stable: its container is not removed under an Envoy that still
// has it.
func TestAPromotionRemovesNothingThatACutOffEnvoyHas(t *testing.T) {
	t.Parallel()
	y, edges := split(t)
	y.run(0, "promote", y.service, "v2")
	y.sendNothing("v1", edges[:2]...)
	y.is(edges[2], "gone")
	y.until(30*time.Second, "v1 to be retired", func() bool { return y.Version(y.service, "v1").Phase == rollout.Retired })
	time.Sleep(3 * time.Second) // a pass of the containers, and more
	y.awaits(edges[2], "v1")
	edges[2].find()
	y.is(edges[2], "applied")
	y.stops("v1")
	for _, m := range edges {
		if sent := m.unharmed(); sent.Failed > 0 {
			t.Errorf("users of %s saw %d errors", m.name, sent.Failed)
		}
	}
}

// Only here a person ends the waiting: the machine is gone for good, as far as anybody can tell.
func TestForgettingACutOffEnvoyEndsTheWaiting(t *testing.T) {
	t.Parallel()
	y, edges := splitAndCut(t)
	y.sendNothing("v2", edges[:2]...)
	y.awaits(edges[2], "v2")
	y.run(0, "envoys", "forget", "edge-3")
	y.stops("v2")
	if out := y.run(0, "status", y.service); may("v2", "edge-3").MatchString(out) {
		t.Errorf("status still warns:\n%s", out)
	}
	for _, m := range edges[:2] {
		m.unharmed()
	}
	edges[2].find() // it was not gone for good after all
	y.is(edges[2], "applied")
	y.sendNothing("v2", edges[2])
}
