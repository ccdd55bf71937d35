package localaws

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
)

// AddRole adds a role, of any account, that everybody may assume. It panics if
// arn is not a role's.
func (s *Server) AddRole(arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !roleARN.MatchString(arn) {
		panic("localaws: AddRole: " + arn + " is no role's ARN")
	}
	s.roles[arn] = iamID("AROA", 17)
}

// createRole keeps no trust policy: everybody may assume the role.
func (s *Server) createRole(c call, in url.Values) (any, error) {
	path, name, policy := cmp.Or(in.Get("Path"), "/"), in.Get("RoleName"), in.Get("AssumeRolePolicyDocument")
	arn := "arn:aws:iam::" + c.caller.account + ":role" + path + name
	switch {
	case !iamPath.MatchString(path) || !newUserName.MatchString(name):
		return nil, iamInvalid("RoleName must be 1 to 64 letters, digits and _+=,.@-, and Path must begin and end with /")
	case !json.Valid([]byte(policy)):
		return nil, &apiError{code: "MalformedPolicyDocument", message: "AssumeRolePolicyDocument must be JSON"}
	case s.roles[arn] != "":
		return nil, &apiError{status: http.StatusConflict, code: "EntityAlreadyExists", message: "Role with name " + name + " already exists."}
	}
	s.roles[arn] = iamID("AROA", 17)
	type role struct{ Path, RoleName, RoleId, Arn, CreateDate, AssumeRolePolicyDocument string }
	return struct{ Role role }{role{path, name, s.roles[arn], arn, iamTime(c.now), url.QueryEscape(policy)}}, nil
}
