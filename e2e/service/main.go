// Command service is one version of a small service, for containers: it is the same one that the other
// tests run in their own process.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	switch {
	case len(os.Args) == 2 && os.Args[1] == "check":
		os.Exit(check("http://127.0.0.1:" + port + "/"))
	case len(os.Args) == 4 && os.Args[1] == "load":
		load(os.Args[2], os.Args[3])
		return
	}
	fmt.Println("service", os.Getenv("VERSION"), "begins")
	if code := os.Getenv("EXIT"); code != "" {
		n, _ := strconv.Atoi(code)
		fmt.Println("database password missing")
		os.Exit(n)
	}
	if d, err := time.ParseDuration(os.Getenv("SLOW")); err == nil {
		time.Sleep(d)
	}
	s, err := rig.NewService(os.Getenv("VERSION"), "0.0.0.0:"+port)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if rate, err := strconv.ParseFloat(os.Getenv("FAIL"), 64); err == nil {
		s.Fail(rate)
	}
	if os.Getenv("SICK") != "" {
		s.Fail(1)
	}
	sicken := make(chan os.Signal, 1)
	signal.Notify(sicken, syscall.SIGUSR1)
	minute := time.Tick(time.Minute)
	for {
		select {
		case <-sicken:
			fmt.Println("every request fails from now on")
			s.Fail(1)
		case <-minute:
			fmt.Println(s.Count().Requests, "requests")
		}
	}
}

// load sends requests at a steady rate until it is asked to end, and says now and then what came of them.
func load(url, rate string) {
	n, err := strconv.Atoi(rate)
	if err != nil || n < 1 {
		fmt.Println("load URL REQUESTS-PER-SECOND")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for rig.WaitFor(ctx, time.Minute, url, func() bool { return rig.Answers(url) }) != nil && ctx.Err() == nil {
		fmt.Println("nothing answers yet at", url)
	}
	l := &rig.Load{URL: url, Rate: n}
	l.Start(context.WithoutCancel(ctx))
	<-ctx.Done()
	fmt.Println(l.Stop())
}

// check is the program as a health check of its own container.
func check(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		fmt.Println(resp.Status)
		return 1
	}
	return 0
}
