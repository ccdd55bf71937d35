package localaws

import (
	"encoding/xml"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func (s *Server) stsOperations() map[string]operation {
	return map[string]operation{
		"sts.GetCallerIdentity": s.getCallerIdentity,
		"sts.AssumeRole":        form(s.assumeRole),
	}
}

type getCallerIdentityResponse struct {
	XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
	Arn       string   `xml:"GetCallerIdentityResult>Arn"`
	UserID    string   `xml:"GetCallerIdentityResult>UserId"`
	Account   string   `xml:"GetCallerIdentityResult>Account"`
	RequestID string   `xml:"ResponseMetadata>RequestId"`
}

func (s *Server) arnOfRoot() string { return "arn:aws:iam::" + s.config.Account + ":root" }

// getCallerIdentity answers that everybody is the account's root, because
// localaws knows no users.
func (s *Server) getCallerIdentity(call, []byte) (any, error) {
	return getCallerIdentityResponse{
		Arn:       s.arnOfRoot(),
		UserID:    s.config.Account,
		Account:   s.config.Account,
		RequestID: newUUID(),
	}, nil
}

type assumeRoleResponse struct {
	XMLName         xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
	AccessKeyID     string   `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
	SecretAccessKey string   `xml:"AssumeRoleResult>Credentials>SecretAccessKey"`
	SessionToken    string   `xml:"AssumeRoleResult>Credentials>SessionToken"`
	Expiration      string   `xml:"AssumeRoleResult>Credentials>Expiration"`
	Arn             string   `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
	AssumedRoleID   string   `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
	RequestID       string   `xml:"ResponseMetadata>RequestId"`
}

var (
	roleARN     = regexp.MustCompile(`^arn:aws:iam::(\d{12}):role/(?:[!-~]+/)?([\w+=,.@-]{1,64})$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

// assumeRole lets everybody assume every role, of every account, because
// localaws knows no roles. What is signed with the credentials has the same
// effect as any other call.
func (s *Server) assumeRole(c call, in url.Values) (any, error) {
	role := roleARN.FindStringSubmatch(in.Get("RoleArn"))
	if role == nil {
		return nil, &apiError{code: "ValidationError", message: in.Get("RoleArn") + " is invalid"}
	}
	session := in.Get("RoleSessionName")
	if !sessionName.MatchString(session) {
		return nil, &apiError{code: "ValidationError", message: "RoleSessionName must be 2 to 64 letters, digits and _+=,.@-"}
	}
	seconds := 3600
	if text := in.Get("DurationSeconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 900 || seconds > 43200 {
			return nil, &apiError{code: "ValidationError", message: "DurationSeconds must be 900 to 43200"}
		}
	}
	random := strings.ToUpper(strings.ReplaceAll(newUUID(), "-", ""))
	return assumeRoleResponse{
		AccessKeyID:     "ASIA" + random[:16],
		SecretAccessKey: newUUID(),
		SessionToken:    newUUID(),
		Expiration:      c.now.Add(time.Duration(seconds) * time.Second).UTC().Format(time.RFC3339),
		Arn:             "arn:aws:sts::" + role[1] + ":assumed-role/" + role[2] + "/" + session,
		AssumedRoleID:   "AROA" + random[16:] + ":" + session,
		RequestID:       newUUID(),
	}, nil
}
