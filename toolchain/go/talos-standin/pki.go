package main

import (
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
)

// issuer signs with one of a cluster's authorities, as its nodes would.
type issuer struct {
	pem  *x509.PEMEncodedCertificateAndKey
	ca   *x509.CertificateAuthority
	pool *stdx509.CertPool
}

func newIssuer(pem *x509.PEMEncodedCertificateAndKey) (issuer, error) {
	ca, err := x509.NewCertificateAuthorityFromCertificateAndKey(pem)
	if err != nil {
		return issuer{}, err
	}
	pool := stdx509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem.Crt) {
		return issuer{}, fmt.Errorf("the authority's certificate cannot be read")
	}
	return issuer{pem: pem, ca: ca, pool: pool}, nil
}

// serverTLS demands a client certificate of the same authority.
func (i issuer) serverTLS(address string) (*tls.Config, error) {
	pair, err := x509.NewKeyPair(i.ca,
		x509.IPAddresses([]net.IP{net.ParseIP(address)}),
		x509.NotAfter(time.Now().Add(24*time.Hour)),
		x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}),
	)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*pair.Certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    i.pool,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

// maintenanceTLS is self-signed and lets everyone in; the fingerprint is what a node's console shows of it.
func maintenanceTLS(address string) (*tls.Config, string, error) {
	own, err := x509.NewSelfSignedCertificateAuthority(x509.NotAfter(time.Now().Add(24 * time.Hour)))
	if err != nil {
		return nil, "", err
	}
	self, err := newIssuer(&x509.PEMEncodedCertificateAndKey{Crt: own.CrtPEM, Key: own.KeyPEM})
	if err != nil {
		return nil, "", err
	}
	config, err := self.serverTLS(address)
	if err != nil {
		return nil, "", err
	}
	config.ClientAuth = tls.NoClientCert
	fingerprint, err := x509.SPKIFingerprintFromDER(config.Certificates[0].Certificate[0])
	return config, fingerprint.String(), err
}

// kubeconfig is an administrator's, with a client certificate of the Kubernetes authority.
func (i issuer) kubeconfig(endpoint string) (string, error) {
	pair, err := x509.NewKeyPair(i.ca,
		x509.CommonName("admin"),
		x509.Organization("system:masters"),
		x509.NotAfter(time.Now().Add(24*time.Hour)),
		x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}),
	)
	if err != nil {
		return "", err
	}
	client := x509.NewCertificateAndKeyFromKeyPair(pair)
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: standin
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: admin@standin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: admin@standin
  context:
    cluster: standin
    namespace: default
    user: admin@standin
current-context: admin@standin
`, endpoint, encode(i.pem.Crt), encode(client.Crt), encode(client.Key)), nil
}

type authorities struct{ talos, kubernetes issuer }

func loadAuthorities(path string) (authorities, error) {
	bundle, err := secrets.LoadBundle(path)
	if err != nil {
		return authorities{}, err
	}
	talos, err := newIssuer(bundle.Certs.OS)
	if err != nil {
		return authorities{}, err
	}
	kubernetes, err := newIssuer(bundle.Certs.K8s)
	return authorities{talos: talos, kubernetes: kubernetes}, err
}
