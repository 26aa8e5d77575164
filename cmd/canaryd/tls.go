package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"

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

// lastingTLS are TLS settings that are read for each connection. Where they cannot be read, because they are wrong or just being
// replaced, what they were before counts: nobody is kept out by that.
type lastingTLS struct {
	read func() (*tls.Config, error)
	log  logrus.FieldLogger

	mu      sync.Mutex
	last    *tls.Config // that could be read; never nil
	failing bool
}

func (l *lastingTLS) forClient(*tls.ClientHelloInfo) (*tls.Config, error) {
	c, err := l.read()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !l.failing {
		l.log.WithError(err).Warn("new connections go by the certificates and authorities from before")
	}
	if l.failing = err != nil; err == nil {
		l.last = c
	}
	return l.last, nil
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
