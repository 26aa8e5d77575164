// Command service is one version of a small service, for containers: it is the same one that the other
// tests run in their own process.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

func main() {
	fmt.Println("service", os.Getenv("VERSION"), "begins")
	if code := os.Getenv("EXIT"); code != "" {
		n, _ := strconv.Atoi(code)
		fmt.Println("database password missing")
		os.Exit(n)
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	s, err := rig.NewService(os.Getenv("VERSION"), "0.0.0.0:"+port)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if rate, err := strconv.ParseFloat(os.Getenv("FAIL"), 64); err == nil {
		s.Fail(rate)
	}
	for range time.Tick(time.Minute) {
		fmt.Println(s.Count().Requests, "requests")
	}
}
