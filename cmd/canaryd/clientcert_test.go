package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// selfSigned writes cert.pem and key.pem of one who is both a server at 127.0.0.1 and a client.
func selfSigned(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// The file is read for each connection. Where it no longer asks for certificates of clients, those of the start are asked
// for all the same: nobody else may be asking who is there.
func TestClientsAreAskedForCertificatesUntilARestart(t *testing.T) {
	dir := t.TempDir()
	pair := selfSigned(t, dir)
	file := filepath.Join(dir, "web.yml")
	write := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("tls_server_config: {cert_file: cert.pem, key_file: key.pem"+more+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	write(", client_auth_type: RequireAndVerifyClientCert, client_ca_file: cert.pem")
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := newWebServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ended := make(chan error, 1)
	go func() { ended <- serveWeb(s, l, file, log) }()
	t.Cleanup(func() { s.Close(); <-ended })
	ask := func(certificates ...tls.Certificate) error {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+l.Addr().String(), nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	}
	for _, more := range []string{"", ", client_auth_type: RequestClientCert", ", client_auth_type: NoClientCert"} {
		if err := ask(pair); err != nil {
			t.Errorf("with a certificate: %v", err)
		}
		if err := ask(); err == nil {
			t.Error("without a certificate a client is let in")
		}
		write(more)
	}
	if err := ask(); err == nil {
		t.Error("without a certificate a client is let in")
	}
}

// Files that are wrong, half replaced or gone keep nobody out: what they were counts until they can be read again.
func TestCertificatesThatCannotBeReadKeepNobodyOut(t *testing.T) {
	dir := t.TempDir()
	selfSigned(t, dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const web = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
	write("web.yml", web)
	log, said := logtest.NewNullLogger()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	api, s := listen(), newWebServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ended := make(chan error, 1)
	go func() { ended <- serveWeb(s, api, in("web.yml"), log) }()
	t.Cleanup(func() { s.Close(); <-ended })
	xdsTLS, err := (tlsConfig{CertFile: in("cert.pem"), KeyFile: in("key.pem")}).load(log)
	if err != nil {
		t.Fatal(err)
	}
	ads := tls.NewListener(listen(), xdsTLS)
	go func() {
		for {
			c, err := ads.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _ = c.(*tls.Conn).Handshake() }()
		}
	}()
	serial := func(l net.Listener) string {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].PublicKey.(*ecdsa.PublicKey).X.String()
	}
	first := serial(api)
	for _, broken := range []struct{ file, text string }{{"key.pem", ""}, {"cert.pem", "-----BEGIN CERT"}, {"web.yml", "tls_server_config: {cert_file: [}\n"}, {"web.yml", ""}} {
		write(broken.file, broken.text)
		for range 2 {
			if a, x := serial(api), serial(ads); a != first || x != first {
				t.Errorf("%s is broken: %s, %s, want %s", broken.file, a, x, first)
			}
		}
	}
	if n := len(said.AllEntries()); n != 2 { // once for each listener
		t.Errorf("%d lines in the log: %v", n, said.AllEntries())
	}
	selfSigned(t, dir)
	write("web.yml", web)
	if a, x := serial(api), serial(ads); a == first || a != x {
		t.Errorf("the new certificate is not used: %s, %s, before %s", a, x, first)
	}
}
