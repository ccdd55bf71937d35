package localaws

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// caller is who signed a call.
type caller struct {
	arn, id, account string
	user             *user    // nil: the root or a session
	session          *session // nil: the root or a user
}

// session is what AssumeRole began.
type session struct {
	secret, token string
	expires       time.Time
	caller        caller
}

// authorization is what the header of that name holds: the id of the key and its
// scope, the names of the signed headers, and the signature.
var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)$`)

// authenticate finds out who signed a call. Keys that begin as those of IAM and
// STS do must be known, alive and used with their own secret. Everything else is
// the root of the server's account, with any secret: what a laptop exports.
func (s *Server) authenticate(now time.Time, r *http.Request, body []byte) (caller, error) {
	root := caller{arn: s.arnOfRoot(), id: s.config.Account, account: s.config.Account}
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil || !strings.HasPrefix(m[1], "AKIA") && !strings.HasPrefix(m[1], "ASIA") {
		return root, nil
	}
	id, region, service := m[1], m[2], m[3]
	if k, ok := s.accessKeys[id]; ok && k.services.look(now) == activeKey {
		if !signed(r, body, m, k.secret) {
			return caller{}, wrongSignature()
		}
		k.used, k.service, k.region = now, service, region
		return caller{arn: k.owner.arn(), id: k.owner.id, account: k.owner.account, user: k.owner}, nil
	}
	if in, ok := s.sessions[id]; ok && in.token == r.Header.Get("X-Amz-Security-Token") {
		switch {
		case !signed(r, body, m, in.secret):
			return caller{}, wrongSignature()
		case !now.Before(in.expires):
			return caller{}, &apiError{
				status: http.StatusForbidden, code: "ExpiredTokenException", query: "ExpiredToken",
				message: "The security token included in the request is expired",
			}
		}
		return in.caller, nil
	}
	return caller{}, &apiError{
		status: http.StatusForbidden, code: "UnrecognizedClientException", query: "InvalidClientTokenId",
		message: "The security token included in the request is invalid.",
	}
}

func wrongSignature() error {
	return &apiError{
		status: http.StatusForbidden, code: "InvalidSignatureException", query: "SignatureDoesNotMatch",
		message: "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
	}
}

// signed tells whether this secret signed the request: what was signed is signed
// again, and the signatures compared. How old the signature is does not matter,
// because the server's clock need not be the caller's.
func signed(r *http.Request, body []byte, m []string, secret string) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return false
	}
	again := &http.Request{Method: r.Method, Host: r.Host, URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Header: http.Header{}}
	for name := range strings.SplitSeq(m[4], ";") {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	hash := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: m[1], SecretAccessKey: secret}, again, hex.EncodeToString(hash[:]), m[3], m[2], at)
	n := authorization.FindStringSubmatch(again.Header.Get("Authorization"))
	return err == nil && n != nil && n[5] == m[5]
}
