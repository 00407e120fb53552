// Package certs makes TLS certificates where no public authority can: for
// conformance runs, whose authority is given, and for the demo, which has its
// own. It also serves certificates from files that are renewed under way.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// LoadAuthority reads an authority from two PEM files. The key may be PKCS#1,
// PKCS#8 or SEC 1, and must be the certificate's.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a, err := ParseAuthority(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", certFile, err)
	}
	return a, nil
}

// ParseAuthority is LoadAuthority for the content of the files.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	block := findBlock(certPEM, func(kind string) bool { return kind == "CERTIFICATE" })
	if block == nil {
		return nil, errors.New("no certificate found")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("the key is not the certificate's")
	}
	return &Authority{Cert: cert, Key: key}, nil
}

func findBlock(data []byte, want func(kind string) bool) *pem.Block {
	for {
		block, rest := pem.Decode(data)
		if block == nil || want(block.Type) {
			return block
		}
		data = rest
	}
}

func parseKey(data []byte) (crypto.Signer, error) {
	block := findBlock(data, func(kind string) bool {
		return kind == "PRIVATE KEY" || kind == "RSA PRIVATE KEY" || kind == "EC PRIVATE KEY"
	})
	if block == nil {
		return nil, errors.New("no private key found")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key can not sign")
	}
	return signer, nil
}

// NewAuthority makes an authority with a fresh key that is valid from the day
// before now for the given time.
func NewAuthority(name string, now time.Time, valid time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(name, now, valid)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{Cert: cert, Key: key}, nil
}

// PEM returns the authority's certificate as a PEM file.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// Issue makes a server certificate with a fresh key for host names and IP
// addresses. It is valid from the day before now for the given time, but not
// beyond the authority itself.
func (a *Authority) Issue(hosts []string, now time.Time, valid time.Duration) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template, err := newTemplate(hosts[0], now, valid)
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.NotAfter.After(a.Cert.NotAfter) {
		template.NotAfter = a.Cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate for %s: %w", hosts[0], err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.Cert.Raw}, PrivateKey: key}, nil
}

func newTemplate(name string, now time.Time, valid time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	// A common name of more than 64 letters is no valid certificate, and nobody
	// reads it where alternative names are given.
	if len(name) > 64 {
		name = name[:64]
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(valid),
	}, nil
}
