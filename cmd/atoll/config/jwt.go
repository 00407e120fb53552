package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// jwtAlgorithms are those that tokens may be signed with.
var jwtAlgorithms = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// Key returns the key that tokens are checked with: a []byte, or a public key of
// the kind that the algorithm needs; nil if there is none.
func (j JWT) Key() (any, error) {
	if j.Secret != "" {
		return []byte(j.Secret), nil
	}
	if j.PublicKeyFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(j.PublicKeyFile)
	if err != nil {
		return nil, fmt.Errorf("can not be read: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	key, err := publicKey(block)
	if err != nil {
		return nil, err
	}
	ok := false
	switch key.(type) {
	case *rsa.PublicKey:
		ok = strings.HasPrefix(j.Algorithm, "RS") || strings.HasPrefix(j.Algorithm, "PS")
	case *ecdsa.PublicKey:
		ok = strings.HasPrefix(j.Algorithm, "ES")
	case ed25519.PublicKey:
		ok = j.Algorithm == "EdDSA"
	}
	if !ok {
		return nil, fmt.Errorf("the key is not of the kind that %s needs", j.Algorithm)
	}
	return key, nil
}

// publicKey reads a public key, by itself or in a certificate.
func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	if block.Type == "CERTIFICATE" {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("the certificate can not be read")
		}
		return certificate.PublicKey, nil
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("no public key in it")
	}
	return key, nil
}
