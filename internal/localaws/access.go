package localaws

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// Access is a permission that a call needs. A call may need several: one for each
// parameter that it names, and those of KMS by which the service works for the
// caller.
type Access struct {
	Action   string // "ssm:GetParameters"
	Resource string // an ARN; "*" where AWS knows no resources
	// Context is what conditions can ask for, by the key's name.
	Context map[string][]string
	// Granted says that the policy of the resource allows it to everybody in the
	// account, as that of a KMS key which AWS manages does to whoever comes by way of
	// its service. Policies of the caller's can only deny it.
	Granted bool
}

// Denial is an Access that the caller does not have.
type Denial struct {
	Access
	Explicit   bool // a policy denies it; otherwise none allows it
	ByResource bool // and that is the policy of the resource
}

// authorize asks Config.Authorize whether the holder of the key that signed a call
// may make it; s.mu is held. What is signed with a key that IAM or STS issued is not
// asked about: no policies are known of users and of roles in other accounts.
func (s *Server) authorize(c call, service, operation string, body []byte) error {
	if s.config.Authorize == nil || c.caller.user != nil || c.caller.session != nil {
		return nil
	}
	key := accessKey.FindStringSubmatch(c.request.Header.Get("Authorization"))
	if key == nil {
		return nil
	}
	denied := s.config.Authorize(key[1], s.needs(service, operation, body))
	if denied == nil {
		return nil
	}
	message := "User: " + s.user(c) + " is not authorized to perform: " + denied.Action
	if denied.Resource != "*" {
		message += " on resource: " + denied.Resource
	}
	switch {
	case denied.Explicit && denied.ByResource:
		message += " with an explicit deny in a resource-based policy"
	case denied.Explicit:
		message += " with an explicit deny in an identity-based policy"
	default:
		message += " because no identity-based policy allows the " + denied.Action + " action"
	}
	if service == "secretsmanager" && strings.HasPrefix(denied.Action, "kms:") {
		message = "Access to KMS is not allowed"
	}
	e := &apiError{code: "AccessDeniedException", query: "AccessDenied", message: message}
	if service == "sts" || service == "rds" || service == "iam" {
		e.status = http.StatusForbidden
	}
	return e
}

// needs lists what a call needs: for its own action first.
func (s *Server) needs(service, operation string, body []byte) []Access {
	form, _ := url.ParseQuery(string(body))
	switch service {
	case "secretsmanager":
		return s.secretNeeds(operation, body)
	case "ssm":
		return s.parameterNeeds(operation, body)
	case "kms":
		var in struct {
			KeyId             string
			CiphertextBlob    []byte
			EncryptionContext map[string]string
		}
		_ = json.Unmarshal(body, &in) // what it does not decode the operation refuses
		if in.KeyId == "" && len(in.CiphertextBlob) >= keyIDLength {
			in.KeyId = string(in.CiphertextBlob[:keyIDLength])
		}
		a := s.keyNeed(operation, in.KeyId, "", in.EncryptionContext)
		a.Granted = false // the policies of AWS's own keys allow nothing but by way of the service
		return []Access{a}
	case "tagging":
		return []Access{{Action: "tag:" + operation, Resource: "*"}}
	case "sqs":
		var in queueInput
		_ = json.Unmarshal(body, &in)
		in.QueueUrl = cmp.Or(in.QueueUrl, form.Get("QueueUrl"))
		queue := in.QueueUrl[strings.LastIndex(in.QueueUrl, "/")+1:]
		return []Access{{Action: "sqs:" + strings.TrimSuffix(operation, "Batch"), Resource: s.arn("sqs", queue)}}
	case "rds":
		kind, parameter := "db", "DBInstanceIdentifier"
		if operation == "DescribeDBClusters" {
			kind, parameter = "cluster", "DBClusterIdentifier"
		}
		id := cmp.Or(strings.ToLower(form.Get(parameter)), "*")
		if !strings.HasPrefix(id, "arn:") {
			id = s.arn("rds", kind+":"+id)
		}
		return []Access{{Action: "rds:" + operation, Resource: id}}
	case "sts":
		if operation == "GetCallerIdentity" {
			return nil // AWS allows it to everybody
		}
		role, _ := arn.Parse(form.Get("RoleArn")) // what is none is of no account
		return []Access{{Action: "sts:" + operation, Resource: form.Get("RoleArn"), Context: map[string][]string{"aws:ResourceAccount": {role.AccountID}}}}
	default:
		return []Access{{Action: service + ":" + operation, Resource: "*"}}
	}
}

// secretNeeds lists what a call to Secrets Manager needs. Its documentation says
// that it calls GenerateDataKey to write a value, and Decrypt to read one, also for
// comparing it with one that is written again.
func (s *Server) secretNeeds(operation string, body []byte) []Access {
	var in struct {
		SecretId, Name, KmsKeyId, VersionId, VersionStage, ClientRequestToken string
		Tags                                                                  []tag
		TagKeys                                                               []string
	}
	_ = json.Unmarshal(body, &in)
	own := Access{Action: "secretsmanager:" + operation, Context: map[string][]string{}}
	sec, err := s.find(in.SecretId)
	switch {
	case operation == "GetRandomPassword" || operation == "ListSecrets":
		own.Resource = "*"
		return []Access{own}
	case err != nil:
		own.Resource = cmp.Or(in.SecretId, in.Name)
		if !strings.HasPrefix(own.Resource, "arn:") {
			own.Resource = s.arn("secretsmanager", "secret:"+own.Resource)
		}
		return []Access{own}
	}
	own.Resource = sec.arn
	if sec.function != "" {
		own.Context["secretsmanager:resource/AllowRotationLambdaArn"] = []string{sec.function}
	}
	for _, t := range sec.tags {
		own.Context["aws:ResourceTag/"+t.Key] = []string{t.Value}
	}
	if operation == "TagResource" || operation == "UntagResource" {
		tagKeys(own.Context, in.Tags, in.TagKeys)
	}
	needs := []Access{own}
	key := func(action, id string, v string) {
		needs = append(needs, s.keyNeed(action, cmp.Or(id, secretsKey), "secretsmanager", map[string]string{"SecretARN": sec.arn, "SecretVersionId": v}))
	}
	switch operation {
	case "GetSecretValue":
		v := sec.holder(cmp.Or(in.VersionStage, current))
		if in.VersionId != "" {
			v = sec.version(in.VersionId)
		}
		if v != nil && !v.value.empty() {
			key("Decrypt", v.keyID, v.id)
		}
	case "PutSecretValue":
		if v := sec.version(in.ClientRequestToken); v != nil && !v.value.empty() {
			key("Decrypt", v.keyID, v.id)
		} else {
			key("GenerateDataKey", sec.keyID, in.ClientRequestToken)
		}
	}
	return needs
}

// parameterNeeds lists what a call to Parameter Store needs.
func (s *Server) parameterNeeds(operation string, body []byte) (needs []Access) {
	var in struct {
		Name, ResourceId, Path    string
		Names, TagKeys            []string
		Tags                      []tag
		Overwrite, WithDecryption bool
		Recursive                 bool
		Type, KeyId, Tier, Value  string
		Policies                  *string
	}
	_ = json.Unmarshal(body, &in)
	action := "ssm:" + operation
	switch operation {
	case "DescribeParameters":
		return []Access{{Action: action, Resource: "*"}}
	case "GetParametersByPath":
		// It is the path that is authorised, and not what is found under it.
		needs = append(needs, Access{Action: action, Resource: s.parameterARN(in.Path)})
		if !in.WithDecryption {
			return needs
		}
		prefix := strings.TrimSuffix(in.Path, "/") + "/"
		for p := range s.parametersAfter(prefix) {
			if !strings.HasPrefix(p.name, prefix) {
				break
			}
			if under(in.Path, p.name, in.Recursive) {
				needs = append(needs, s.decryptNeed(p, p.latest())...)
			}
		}
		return needs
	}
	if in.Name+in.ResourceId != "" {
		in.Names = append(in.Names, in.Name+in.ResourceId)
	}
	for _, id := range in.Names {
		p, selector, exists := s.findParameter(id)
		a := Access{Action: action, Context: map[string][]string{}}
		if exists {
			a.Resource = p.arn
			for key, value := range p.tags {
				a.Context["aws:ResourceTag/"+key] = []string{value}
			}
		} else if a.Resource = id; !strings.HasPrefix(id, "arn:") {
			name, _, _ := strings.Cut(id, ":")
			a.Resource = s.parameterARN(name)
		}
		switch operation {
		case "PutParameter":
			a.Context["ssm:Overwrite"] = []string{strconv.FormatBool(in.Overwrite)}
		case "AddTagsToResource", "RemoveTagsFromResource":
			tagKeys(a.Context, in.Tags, in.TagKeys)
		}
		needs = append(needs, a)
		switch {
		case operation == "PutParameter" && (in.Type == secureString || exists && p.latest().kind == secureString):
			// Under the key itself in the Standard tier, in the Advanced one under a data key.
			verb := "Encrypt"
			if in.Tier == advanced || in.Tier != standard && (exists && p.latest().tier == advanced || len(in.Value) > maxStandardValue || in.Policies != nil) {
				verb = "GenerateDataKey"
			}
			needs = append(needs, s.keyNeed(verb, cmp.Or(in.KeyId, parametersKey), "ssm", map[string]string{"PARAMETER_ARN": a.Resource}))
		case in.WithDecryption && exists && operation == "GetParameterHistory":
			for _, v := range p.versions {
				needs = append(needs, s.decryptNeed(p, v)...)
			}
		case in.WithDecryption && exists:
			v := p.latest()
			if number, err := strconv.ParseInt(selector, 10, 64); err == nil {
				v = p.version(number)
			} else if selector != "" {
				v = p.holder(selector)
			}
			needs = append(needs, s.decryptNeed(p, v)...)
		}
	}
	return needs
}

// decryptNeed is what reading a version needs; nothing if there is none or it is not
// encrypted.
func (s *Server) decryptNeed(p *parameter, v *parameterVersion) []Access {
	if v == nil || v.kind != secureString {
		return nil
	}
	return []Access{s.keyNeed("Decrypt", v.keyID, "ssm", p.encryptionContext())}
}

// keyNeed is what an action on a key needs that a service carries out for the caller,
// or by "" the caller itself.
func (s *Server) keyNeed(action, id, via string, context map[string]string) Access {
	a := Access{Action: "kms:" + action, Resource: id, Context: map[string][]string{}}
	if k, err := s.resolveKey(id); err == nil {
		a.Resource, a.Granted = k.arn, k.manager == "AWS"
	}
	if via != "" {
		a.Context["kms:ViaService"] = []string{via + "." + s.config.Region + ".amazonaws.com"}
	}
	for key, value := range context {
		a.Context["kms:EncryptionContext:"+key] = []string{value}
	}
	return a
}

// tagKeys says which tags a call writes or takes off.
func tagKeys(context map[string][]string, tags []tag, keys []string) {
	for _, t := range tags {
		context["aws:RequestTag/"+t.Key] = []string{t.Value}
		keys = append(keys, t.Key)
	}
	context["aws:TagKeys"] = keys
}
