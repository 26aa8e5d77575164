package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	slowDown    = 10 * time.Second // where a 429 does not say for how long
	slowDownMax = 5 * time.Minute
	reasonMost  = 300 // bytes of what others say
)

// failure is why a query gave nothing.
type failure struct {
	rollout.Missing
	wait time.Duration // before anything is asked again
}

// failureOf tells a wrong query from a Prometheus that is away, busy or locked.
func failureOf(err error, x *exchange, url string) *failure {
	f := &failure{Missing: rollout.Missing{Code: analysis.SourceUnreachable}}
	status := fmt.Sprintf("%d %s", x.status, http.StatusText(x.status))
	pe, _ := errors.AsType[*promv1.Error](err)
	switch {
	case x.status == http.StatusUnauthorized:
		f.Reason = fmt.Sprintf("Prometheus at %s requires authentication (%s): write basic_auth, authorization or tls_config under metrics.prometheus", url, status)
	case x.status == http.StatusForbidden:
		f.Reason = fmt.Sprintf("Prometheus at %s does not let canaryd query (%s): the user or token under metrics.prometheus needs the right to read", url, status)
	case x.status == http.StatusTooManyRequests:
		f.wait = min(max(x.retryAfter(), time.Second), slowDownMax)
		if x.retryAfter() <= 0 {
			f.wait = slowDown
		}
		f.Reason = fmt.Sprintf("Prometheus at %s limits queries (%s): the next one is sent in %s; raise its limit, or metrics.interval", url, status, f.wait.Round(time.Second))
	case x.status == http.StatusBadRequest, x.status == http.StatusUnprocessableEntity:
		f.Code, f.Reason = analysis.QueryError, "Prometheus refused the query: "+wordsOf(err, pe)
	case x.status == http.StatusNotFound, x.status == http.StatusMethodNotAllowed:
		f.Reason = fmt.Sprintf("%s has no query API (%s): does metrics.prometheus.url lack a path, such as /prometheus?", url, status)
	case x.status >= 500:
		f.wait = min(max(x.retryAfter(), 0), slowDownMax)
		f.Reason = fmt.Sprintf("Prometheus at %s cannot answer (%s): %s", url, status, wordsOf(err, pe))
	case errors.Is(err, context.DeadlineExceeded):
		f.Reason = fmt.Sprintf("Prometheus at %s did not answer within %s", url, queryTimeout)
	case x.status != 0:
		f.Reason = fmt.Sprintf("what answers at %s is not the Prometheus API (%s, %s): %s", url, status, x.header.Get("Content-Type"), wordsOf(err, pe))
	default:
		f.Reason = "Prometheus does not answer: " + clipped(err.Error())
	}
	return f
}

// wordsOf are Prometheus' own, where it said any.
func wordsOf(err error, pe *promv1.Error) string {
	switch {
	case pe == nil:
		return clipped(err.Error())
	case pe.Detail != "" && pe.Type == promv1.ErrServer:
		return clipped(pe.Detail)
	}
	return clipped(pe.Msg)
}

func clipped(s string) string {
	if len(s) > reasonMost {
		return s[:reasonMost] + " …"
	}
	return s
}
