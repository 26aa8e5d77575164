package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// load makes the server's TLS settings; nil without a certificate. The files are read again for each
// connection, so that rotated ones are picked up.
func (c tlsConfig) load(log logrus.FieldLogger) (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	first, err := c.read()
	if err != nil {
		return nil, err
	}
	files := &lastingTLS{read: c.read, last: first, log: log}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, GetConfigForClient: files.forClient}, nil
}

const (
	tlsWithin = time.Second // a new connection waits for the files of certificates for so long
	tlsAtOnce = 64          // readings: each that hangs keeps a thread, of which Go has ten thousand
)

// lastingTLS are TLS settings that are read for each connection. Where they cannot be read, because they are wrong, just being
// replaced, or on a file system that does not answer, what they were before counts: nobody is kept out by that.
type lastingTLS struct {
	read func() (*tls.Config, error)
	log  logrus.FieldLogger

	mu      sync.Mutex
	last    *tls.Config // that could be read; never nil
	begun   int         // readings
	reading int         // of them have not ended
	newest  int         // which of them last is of
	hanging int         // readings that have taken too long: until they end nobody begins another
	failing bool
}

func (l *lastingTLS) forClient(*tls.ClientHelloInfo) (*tls.Config, error) {
	l.mu.Lock()
	if l.hanging > 0 || l.reading >= tlsAtOnce {
		defer l.mu.Unlock()
		return l.last, nil
	}
	l.begun++
	l.reading++
	number := l.begun
	l.mu.Unlock()
	ended := make(chan struct{})
	hung := false // with the lock
	go func() {
		c, err := l.read()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.take(number, c, err)
		l.reading--
		if hung {
			l.hanging--
		}
		close(ended)
	}()
	late := time.NewTimer(tlsWithin)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-ended:
	default:
		hung = true
		l.hanging++
		l.fails(fmt.Errorf("their files have not been read within %s: does their file system answer?", tlsWithin))
	}
	return l.last, nil
}

// take takes in what was read, unless something newer was.
func (l *lastingTLS) take(number int, c *tls.Config, err error) {
	switch {
	case err != nil:
		l.fails(err)
	case number > l.newest:
		l.last, l.newest, l.failing = c, number, false
	}
}

// fails says once that nothing could be read.
func (l *lastingTLS) fails(err error) {
	if !l.failing {
		l.log.WithError(err).Warn("new connections go by the certificates and authorities from before")
	}
	l.failing = true
}

func (c tlsConfig) read() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("xds.tls: %w", err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}}
	if c.ClientCA == "" {
		return out, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("xds.tls.client_ca_file: %w", err)
	}
	out.ClientCAs = x509.NewCertPool()
	if !out.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("xds.tls.client_ca_file: %s holds no certificate", c.ClientCA)
	}
	out.ClientAuth = tls.RequireAndVerifyClientCert
	return out, nil
}
