package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// weightChanges are so many that memory is collected several times among them, and that p99 says more than what happened once.
const weightChanges = 3000

// weightOf is the weight of v2 after a number of changes, never 0: for a version that has none yet Envoy would make a cluster first.
func weightOf(changes int) int { return 1 + changes%90*10 }

// weight changes one service's weights on a real Envoy with a tenth of all services.
func (b *bench) weight(ctx context.Context) error {
	hub, mine := xds.NewHub(quiet()), b.services/10
	front := rig.FreeAddress()
	var ps []xds.Prepared
	for i := range b.services {
		if i < mine {
			ps = append(ps, hub.Prepare(tableOf(i, 1, weightOf(0), front)))
		} else {
			ps = append(ps, hub.Prepare(tableOf(i, 1, 0, "127.0.0.1:10000", "elsewhere")))
		}
	}
	if err := errors.Join(hub.Publish(ps...)...); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := xds.NewServer(hub, xds.NewLoads(time.Second, func(xds.Report) {}), nil)
	go func() { _ = s.Serve(l) }() // ends with Stop
	defer s.Stop()
	envoy, err := filepath.Abs(b.envoy)
	if err != nil {
		return err
	}
	stage := &rig.Stage{Dir: b.dir, Envoy: envoy, XDS: l.Addr().String()}
	defer stage.Close()
	if _, _, err := stage.StartEnvoy(ctx, "edge-1", "edge", nil); err != nil {
		return err
	}
	if err := inForce(hub, serviceName(0), 1, time.Minute); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // the others
	took, wrote, err := b.changeWeights(hub, front)
	if err != nil {
		return err
	}
	p50, p99, worst := quantiles(took)
	w50, w99, _ := quantiles(wrote)
	figure(fmt.Sprintf("one service's weights changed among %d, one real Envoy with %d of them: in force", b.services, mine), "p50 < 1 ms, p99 < 5 ms",
		fmt.Sprintf("%d changes, from the end of the durable write; the resources are made during it, as the controller does", len(took)),
		"p50 %.2f, p99 %.2f, worst %.2f ms (the write: p50 %.2f, p99 %.2f ms)", p50, p99, worst, w50, w99)
	return nil
}

func (b *bench) changeWeights(hub *xds.Hub, front string) (took, wrote []time.Duration, err error) {
	db, err := store.Open(filepath.Join(b.dir, "weight"))
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	for i := range weightChanges {
		begin := time.Now()
		made := make(chan xds.Prepared, 1)
		go func() { made <- hub.Prepare(tableOf(0, uint64(i+2), weightOf(i+1), front)) }()
		if _, err := db.Save([]store.Write{{Service: serviceName(0), State: make([]byte, 8000), Records: [][]byte{make([]byte, 800)}}}); err != nil {
			return nil, nil, err
		}
		p, stored := <-made, time.Now()
		if err := hub.Publish(p)[0]; err != nil {
			return nil, nil, err
		}
		if err := inForce(hub, serviceName(0), uint64(i+2), 10*time.Second); err != nil {
			return nil, nil, err
		}
		took, wrote = append(took, time.Since(stored)), append(wrote, stored.Sub(begin))
		time.Sleep(5 * time.Millisecond)
	}
	return took, wrote, nil
}

// inForce waits until a generation of a service is.
func inForce(hub *xds.Hub, service string, generation uint64, most time.Duration) error {
	late := time.After(most)
	for {
		for _, st := range hub.TakeChanges() {
			if st.Service == service && st.Generation == generation && len(st.Refusals) > 0 {
				return fmt.Errorf("Envoy refuses %s: %s", service, st.Refusals[0].Message)
			}
			if st.Service == service && st.Generation == generation && st.InForce {
				return nil
			}
		}
		select {
		case <-hub.Changes():
		case <-late:
			return fmt.Errorf("generation %d of %s was not in force within %s", generation, service, most)
		}
	}
}
