package metrics

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// exchange is what is worth knowing of an HTTP request beside what is in its answer.
type exchange struct {
	sent, received time.Time
	status         int // 0: no answer
	header         http.Header
}

type exchangeKey struct{}

// noting asks for the exchange of whatever is requested with the context; of several, the last.
func noting(ctx context.Context) (context.Context, *exchange) {
	x := &exchange{}
	return context.WithValue(ctx, exchangeKey{}, x), x
}

// noter notes exchanges.
type noter struct{ next http.RoundTripper }

func (n noter) RoundTrip(req *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := n.next.RoundTrip(req)
	if x, wanted := req.Context().Value(exchangeKey{}).(*exchange); wanted {
		*x = exchange{sent: sent, received: time.Now()}
		if err == nil {
			x.status, x.header = resp.StatusCode, resp.Header
		}
	}
	return resp, err
}

// date is the server's clock when it answered, in whole seconds.
func (x *exchange) date() (time.Time, bool) {
	t, err := http.ParseTime(x.header.Get("Date"))
	return t, err == nil
}

// retryAfter is how long the server wants to be left alone; 0 when it does not say.
func (x *exchange) retryAfter() time.Duration {
	text := x.header.Get("Retry-After")
	if s, err := strconv.Atoi(text); err == nil {
		return time.Duration(s) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	from := x.received
	if date, ok := x.date(); ok {
		from = date // the moment is by the server's clock
	}
	return at.Sub(from)
}
