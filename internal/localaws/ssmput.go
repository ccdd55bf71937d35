package localaws

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

type putParameterInput struct {
	Name, Value, Type           string
	Overwrite                   bool
	KeyId, Tier, DataType       string
	Description, AllowedPattern string
	Policies                    *string
	Tags                        []tag
}

type putParameterOutput struct {
	Version int64
	Tier    string
}

func (s *Server) putParameter(c call, in putParameterInput) (any, error) {
	in.Name = strings.Trim(in.Name, " ")
	if err := s.checkParameterName(in.Name); err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	p, exists := s.parameters[in.Name]
	rested, wasDeleted := s.deleted[in.Name]
	switch {
	case exists && !in.Overwrite:
		return nil, &apiError{code: "ParameterAlreadyExists", message: "The parameter already exists. To overwrite this value, set the overwrite option in the request to true."}
	case !exists && wasDeleted && c.now.Sub(rested) < nameRest:
		// AWS says to wait and does not say what happens to those who do not. That
		// the name is still taken is the nearest of its errors.
		return nil, &apiError{code: "ParameterAlreadyExists", message: fmt.Sprintf("The parameter was deleted less than %v ago.", nameRest)}
	case !exists && in.Type == "":
		return nil, validation("A parameter type is required when you create a parameter.")
	}
	v := &parameterVersion{number: 1, kind: in.Type, dataType: cmp.Or(in.DataType, "text"), changed: c.now, user: s.user(c)}
	if exists {
		last := p.latest()
		if in.Type != "" && in.Type != last.kind {
			return nil, &apiError{code: "HierarchyTypeMismatchException", message: fmt.Sprintf("Parameter Store doesn't support changing a parameter type in a hierarchy. You can't change %s from %s to %s.", in.Name, last.kind, in.Type)}
		}
		v.kind, v.number = last.kind, last.number+1
		v.policies = last.policies // "preserved until you send new policies or an empty policy"
	} else {
		tags, err := addTags(nil, in.Tags)
		if err != nil {
			return nil, err
		}
		p = &parameter{name: in.Name, arn: s.parameterARN(in.Name), tags: tags}
	}
	// A key that is left out is the default one, not the one there was: AWS says
	// so. Of a description, a pattern and a data type it says nothing. Here they
	// are lost, so that whoever forgets to send them again is caught.
	v.keyID, v.description, v.pattern = in.KeyId, in.Description, in.AllowedPattern
	if in.Policies != nil {
		policies, err := parsePolicies(*in.Policies)
		if err != nil {
			return nil, err
		}
		v.policies = policies
	}
	if err := s.chooseTier(p, v, in); err != nil {
		return nil, err
	}
	if err := v.validate(in); err != nil {
		return nil, err
	}
	if exists && len(p.versions) >= maxParameterVersions && len(p.versions[0].labels) > 0 {
		return nil, &apiError{code: "ParameterMaxVersionLimitExceeded", message: fmt.Sprintf("You attempted to create a new version of %s by calling the PutParameter API with the overwrite flag. Version %d, the oldest version, can't be deleted because it has a label associated with it. Move the label to another version of the parameter, and try again.", p.name, p.versions[0].number)}
	}
	if err := s.seal(p, v, in.Value); err != nil {
		return nil, err
	}
	if len(p.versions) >= maxParameterVersions {
		p.versions = slices.Delete(p.versions, 0, 1)
	}
	p.versions = append(p.versions, v)
	if !exists {
		s.keep(p)
	}
	return putParameterOutput{Version: v.number, Tier: v.tier}, nil
}

// accessKey finds the access key id in an Authorization header.
var accessKey = regexp.MustCompile(`Credential=([^/,\s]+)/`)

// user is who Parameter Store says made a version: who the call is by, or a user
// for each access key that IAM has not issued.
func (s *Server) user(c call) string {
	key := accessKey.FindStringSubmatch(c.request.Header.Get("Authorization"))
	if key == nil || c.caller.user != nil || c.caller.session != nil {
		return c.caller.arn
	}
	return "arn:aws:iam::" + s.config.Account + ":user/" + key[1]
}

// parameterNameText is what a name may hold.
var parameterNameText = regexp.MustCompile(`^[a-zA-Z0-9_.\-/]+$`)

// checkParameterName refuses a name no parameter can have.
func (s *Server) checkParameterName(name string) error {
	lower := strings.ToLower(strings.TrimPrefix(name, "/"))
	parts := strings.Split(strings.TrimPrefix(name, "/"), "/")
	switch {
	case name == "":
		return validation("1 validation error detected: Value at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1")
	case strings.HasPrefix(lower, "aws/") && strings.HasPrefix(name, "/"):
		return &apiError{code: "AccessDeniedException", message: "No access to reserved parameter name: " + name + "."}
	case strings.HasPrefix(lower, "aws") || strings.HasPrefix(lower, "ssm"):
		return validation(`Parameter name: can't be prefixed with "aws" or "ssm" (case-insensitive).`)
	case !parameterNameText.MatchString(name) || slices.Contains(parts, ""):
		return validation(`Parameter name: can't be prefixed with "ssm" (case-insensitive). If formed as a path, it can consist of sub-paths divided by slash symbol; each sub-path can be formed as a mix of letters, numbers and the following 3 symbols .-_`)
	case len(parts) > 1 && !strings.HasPrefix(name, "/"):
		return validation("Parameter name must be a fully qualified name.")
	case len(parts) > maxParameterDepth:
		return &apiError{code: "HierarchyLevelLimitExceededException", message: fmt.Sprintf("A hierarchy can have a maximum of %d levels, and this name has %d.", maxParameterDepth, len(parts))}
	case len(s.arn("ssm", "parameter/"))+len(name) > maxParameterName:
		return validation("Parameter name: with the ARN before it, it can have %d characters at most.", maxParameterName)
	}
	return nil
}

// check refuses what is wrong with the input whatever there is already.
func (in putParameterInput) check() error {
	switch {
	case len(in.Tags) > 0 && in.Overwrite:
		return validation("Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or RemoveTagsFromResource.")
	case in.Value == "":
		return validation("1 validation error detected: Value at 'value' failed to satisfy constraint: Member must have length greater than or equal to 1")
	case strings.Contains(in.Value, "{{"):
		return validation(`Parameter value can't nest another parameter. Do not use "{{}}" in the value.`)
	case !slices.Contains([]string{"", plainString, stringList, secureString}, in.Type):
		return validation("1 validation error detected: Value '%s' at 'type' failed to satisfy constraint: Member must satisfy enum value set: [SecureString, StringList, String]", in.Type)
	case !slices.Contains([]string{"", standard, advanced, intelligentTiering}, in.Tier):
		return validation("1 validation error detected: Value '%s' at 'tier' failed to satisfy constraint: Member must satisfy enum value set: [Standard, Advanced, Intelligent-Tiering]", in.Tier)
	case !slices.Contains([]string{"", "text", "aws:ec2:image", "aws:ssm:integration"}, in.DataType):
		return validation("The following data type is not supported: %s (Data type names are all lowercase.)", in.DataType)
	case utf8.RuneCountInString(in.Description) > maxParameterText || utf8.RuneCountInString(in.AllowedPattern) > maxParameterText:
		return validation("Description and AllowedPattern can have %d characters at most.", maxParameterText)
	}
	return nil
}

// chooseTier gives the version its tier. A tier that is left out is the account's
// default, which is Standard.
func (s *Server) chooseTier(p *parameter, v *parameterVersion, in putParameterInput) error {
	v.tier = cmp.Or(in.Tier, standard)
	was := "" // there is no parameter yet
	if len(p.versions) > 0 {
		was = p.latest().tier
	}
	full := was == "" && s.config.StandardParameters > 0 && v.tier != advanced && s.standardParameters() >= s.config.StandardParameters
	if v.tier == intelligentTiering {
		v.tier = standard
		if was == advanced || len(in.Value) > maxStandardValue || len(v.policies) > 0 || full {
			v.tier = advanced
		}
	}
	limit := maxStandardValue
	if v.tier == advanced {
		limit = maxAdvancedValue
	}
	switch {
	case v.tier == standard && was == advanced:
		return validation("This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the advanced-parameter tier to the standard-parameter tier. If necessary, you can delete the advanced parameter and recreate it as a standard parameter. Be aware that the advanced-parameter tier supports a content size limit of 8 KB. The standard-parameter tier supports a content size limit of 4 KB.")
	case v.tier == standard && len(v.policies) > 0:
		return validation("Parameter policies need the advanced-parameter tier.")
	case v.tier == standard && full:
		return &apiError{code: "ParameterLimitExceeded", message: fmt.Sprintf("You have exceeded the number of parameters for this Amazon Web Services account: %d in the standard-parameter tier. Delete one or more parameters and try again.", s.config.StandardParameters)}
	case len(in.Value) > limit:
		return validation("%s tier parameters support a maximum parameter value of %d characters.", v.tier, limit) // it says characters and counts bytes
	}
	return nil
}

func (s *Server) standardParameters() int {
	n := 0
	for _, p := range s.parameters {
		if p.latest().tier == standard {
			n++
		}
	}
	return n
}

// validate refuses what does not fit the version's type, and a value that does
// not match the pattern.
func (v *parameterVersion) validate(in putParameterInput) error {
	switch {
	case in.KeyId != "" && v.kind != secureString:
		return validation("KeyId is required for SecureString type parameters only.")
	case v.dataType != "text" && v.kind != plainString:
		return validation("The data type %s is for parameters of the type String.", v.dataType)
	case v.pattern == "":
		return nil
	}
	// AWS's patterns are Java's. Those Go does not know, look-ahead above all, are
	// refused here. That part of the value may match is what AWS's examples, which
	// anchor their patterns, suggest.
	pattern, err := regexp.Compile(v.pattern)
	if err != nil {
		return &apiError{code: "InvalidAllowedPatternException", message: "The request doesn't meet the regular expression requirement."}
	}
	if !pattern.MatchString(in.Value) {
		return &apiError{code: "ParameterPatternMismatchException", message: "Parameter value, cannot be validated against allowedPattern: " + v.pattern}
	}
	return nil
}

// policy is one policy of a parameter, as the text it was given in. None is ever
// carried out.
type policy struct{ kind, text string }

// policyAttributes are what each type of policy must say.
var policyAttributes = map[string][]string{
	"Expiration":             {"Timestamp"},
	"ExpirationNotification": {"Before", "Unit"},
	"NoChangeNotification":   {"After", "Unit"},
}

// parsePolicies reads the JSON array PutParameter takes. "[{}]" is AWS's way to
// write no policies.
func parsePolicies(text string) ([]policy, error) {
	if text == "" {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, validation("Policies must be a JSON array")
	}
	if len(list) > maxParameterPolicies {
		return nil, &apiError{code: "PoliciesLimitExceededException", message: fmt.Sprintf("You specified more than the maximum number of allowed policies for the parameter. The maximum is %d.", maxParameterPolicies)}
	}
	var policies []policy
	for _, raw := range list {
		var one struct {
			Type       string
			Attributes map[string]string
		}
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, &apiError{code: "InvalidPolicyAttributeException", message: "A policy attribute or its value is invalid."}
		}
		if one.Type == "" && len(list) == 1 && len(one.Attributes) == 0 {
			return nil, nil
		}
		needed, known := policyAttributes[one.Type]
		if !known {
			return nil, &apiError{code: "InvalidPolicyTypeException", message: "The policy type isn't supported. Parameter Store supports the following policy types: Expiration, ExpirationNotification, and NoChangeNotification."}
		}
		for _, attribute := range needed {
			value := one.Attributes[attribute]
			_, err := time.Parse(time.RFC3339, value)
			if value == "" || attribute == "Timestamp" && err != nil {
				return nil, &apiError{code: "InvalidPolicyAttributeException", message: fmt.Sprintf("%s of a policy %s is invalid.", attribute, one.Type)}
			}
		}
		if one.Type == "Expiration" && slices.ContainsFunc(policies, func(p policy) bool { return p.kind == one.Type }) {
			return nil, &apiError{code: "IncompatiblePolicyException", message: "There is a conflict in the policies specified for this parameter. You can't specify two Expiration policies for a parameter."}
		}
		policies = append(policies, policy{one.Type, string(raw)})
	}
	return policies, nil
}

// policiesText is the reverse of parsePolicies.
func policiesText(policies []policy) string {
	if len(policies) == 0 {
		return ""
	}
	var texts []string
	for _, p := range policies {
		texts = append(texts, p.text)
	}
	return "[" + strings.Join(texts, ",") + "]"
}
