package docker

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// containers are those that canaryd started of a version. They are shared: nobody changes them.
func (f *Fleet) containers(ctx context.Context, want Want) ([]*container.Summary, error) {
	if err := f.current(ctx); err != nil {
		return nil, err
	}
	return f.survey.of([2]string{want.Service, want.Version}), nil
}

// current has the survey show all that has happened until now.
func (f *Fleet) current(ctx context.Context) error {
	now := time.Now()
	for range 2 { // the first answer may be to a question from before
		if _, due := f.survey.due(now); !due {
			return nil
		}
		select {
		case a := <-f.survey.flights.DoChan("", f.ask):
			if a.Err != nil {
				return a.Err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ask asks the daemon what is due. It is nobody's own: who waits for it may go.
func (f *Fleet) ask() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callMost)
	defer cancel()
	q, due := f.survey.due(time.Now())
	if !due {
		return nil, nil
	}
	filters := client.Filters{}.Add("label", LabelService)
	if len(q.ids) > 0 {
		filters.Add("id", q.ids...)
	}
	r, err := f.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, err
	}
	f.wakeUp(f.survey.answered(q, r.Items))
	if len(q.ids) == 0 {
		f.lookNow()
	}
	return nil, nil
}
