package localaws

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
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

// getCallerIdentity tells whose key signed the call.
func (s *Server) getCallerIdentity(c call, _ []byte) (any, error) {
	return getCallerIdentityResponse{
		Arn:       c.caller.arn,
		UserID:    c.caller.id,
		Account:   c.caller.account,
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

// defaultSession is how long a session may last at most: what a role allows for
// which nobody set anything else, and what a session may give another.
const defaultSession = 3600

// assumeRole lets everybody assume every role there is, because localaws knows no
// policies. Calls to IAM that are signed with the credentials are about the users
// of the role's account. Those to other services have the same effect as any.
func (s *Server) assumeRole(c call, in url.Values) (any, error) {
	role := roleARN.FindStringSubmatch(in.Get("RoleArn"))
	if role == nil {
		return nil, &apiError{code: "ValidationError", message: in.Get("RoleArn") + " is invalid"}
	}
	name := in.Get("RoleSessionName")
	if !sessionName.MatchString(name) {
		return nil, &apiError{code: "ValidationError", message: "RoleSessionName must be 2 to 64 letters, digits and _+=,.@-"}
	}
	seconds := 3600
	if text := in.Get("DurationSeconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 900 || seconds > 43200 {
			return nil, &apiError{code: "ValidationError", message: "DurationSeconds must be 900 to 43200"}
		}
	}
	roleID, ok := s.roles[role[0]]
	switch {
	case !ok:
		return nil, &apiError{
			status: http.StatusForbidden, code: "AccessDenied",
			message: fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", c.caller.arn, role[0]),
		}
	case seconds > defaultSession && c.caller.session != nil:
		return nil, &apiError{code: "ValidationError", message: "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"}
	case seconds > defaultSession:
		return nil, &apiError{code: "ValidationError", message: "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."}
	}
	begun := &session{
		secret:  newSecretKey(),
		token:   newSecretKey() + newSecretKey(),
		expires: c.now.Add(time.Duration(seconds) * time.Second),
		caller:  caller{arn: "arn:aws:sts::" + role[1] + ":assumed-role/" + role[2] + "/" + name, id: roleID + ":" + name, account: role[1]},
	}
	begun.caller.session = begun
	id := iamID("ASIA", 16)
	s.sessions[id] = begun
	return assumeRoleResponse{
		AccessKeyID:     id,
		SecretAccessKey: begun.secret,
		SessionToken:    begun.token,
		Expiration:      iamTime(begun.expires),
		Arn:             begun.caller.arn,
		AssumedRoleID:   begun.caller.id,
		RequestID:       newUUID(),
	}, nil
}
