package localaws

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types and tiers of a parameter.
const (
	plainString  = "String"
	stringList   = "StringList"
	secureString = "SecureString"

	standard           = "Standard"
	advanced           = "Advanced"
	intelligentTiering = "Intelligent-Tiering"
)

// Limits of Parameter Store.
const (
	maxStandardValue     = 4096 // bytes of a value
	maxAdvancedValue     = 8192
	maxParameterName     = 1011 // characters, with the ARN before the name
	maxParameterDepth    = 15   // levels of a hierarchy, the last part of the name included
	maxParameterText     = 1024 // characters of a description or a pattern
	maxParameterVersions = 100
	maxParameterLabels   = 10 // on one version
	maxLabelLength       = 100
	maxParameterTags     = 50
	maxParameterPolicies = 10
	maxNames             = 10 // names in one call, and entries of a page of GetParametersByPath
	maxParameterPage     = 50 // entries of a page of the other lists
	maxFilterValues      = 50 // values of one filter

	// nameRest is how long a name cannot be used again after its parameter was
	// deleted.
	nameRest = 30 * time.Second
)

// Parameter is a parameter of Parameter Store as tests make and change one: its
// latest version, and its tags.
type Parameter struct {
	Name  string // "/app/admin"
	Type  string // "String", "StringList" or "SecureString"
	Value string
	// KeyID is the KMS key of a SecureString: an id, an ARN or an alias; "":
	// alias/aws/ssm.
	KeyID string
	Tier  string // "Standard" or "Advanced"; "": Standard
	// Description and AllowedPattern may be empty.
	Description, AllowedPattern string
	Policies                    string // as PutParameter takes them, a JSON array; "": none
	DataType                    string // "": text
	Tags                        map[string]string
	Changed                     time.Time // when this version was made; zero: now
}

// parameter is a parameter with all its versions.
type parameter struct {
	name, arn string
	tags      map[string]string   // nil: it never had any
	versions  []*parameterVersion // the oldest first; never empty
}

// parameterVersion is one version of a parameter.
type parameterVersion struct {
	number  int64
	kind    string // Type
	text    string // the value; of a SecureString the ciphertext, in base64
	keyID   string // as the caller spelled it
	tier    string
	labels  []string // in the order they were attached
	changed time.Time
	user    string // who made it, an ARN

	description, pattern, dataType string
	policies                       []policy
}

func (p *parameter) latest() *parameterVersion { return p.versions[len(p.versions)-1] }

// version finds a version by its number; nil if there is none.
func (p *parameter) version(number int64) *parameterVersion {
	for _, v := range p.versions {
		if v.number == number {
			return v
		}
	}
	return nil
}

// holder finds the version that has a label; nil if none has.
func (p *parameter) holder(label string) *parameterVersion {
	for _, v := range p.versions {
		if slices.Contains(v.labels, label) {
			return v
		}
	}
	return nil
}

// AddParameter adds a parameter as version 1, or replaces the one of that name
// and all its versions. It checks next to nothing, and panics if KeyID names no
// key or Policies is no JSON array of policies.
func (s *Server) AddParameter(in Parameter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &parameter{name: in.Name, arn: s.parameterARN(in.Name), versions: []*parameterVersion{{number: 1, user: s.arnOfRoot()}}}
	if err := s.fill(p, in); err != nil {
		panic("localaws: AddParameter " + in.Name + ": " + err.Error())
	}
	s.keep(p)
}

// EditParameter changes the latest version of a parameter, and its tags, in ways
// no call could. f runs with the server locked: it must not call it. The name
// stays what it is.
func (s *Server) EditParameter(name string, f func(*Parameter)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.parameters[name]
	if !ok {
		return parameterNotFound()
	}
	v := p.latest()
	value, err := s.reveal(p, v)
	if err != nil {
		return err
	}
	edited := Parameter{
		Name: p.name, Type: v.kind, Value: value, KeyID: v.keyID, Tier: v.tier,
		Description: v.description, AllowedPattern: v.pattern, Policies: policiesText(v.policies),
		DataType: v.dataType, Tags: maps.Clone(p.tags), Changed: v.changed,
	}
	f(&edited)
	return s.fill(p, edited)
}

// fill makes the latest version of p, and its tags, what in says.
func (s *Server) fill(p *parameter, in Parameter) error {
	policies, err := parsePolicies(in.Policies)
	if err != nil {
		return err
	}
	v := *p.latest()
	v.kind, v.keyID, v.tier, v.dataType = in.Type, in.KeyID, cmp.Or(in.Tier, standard), cmp.Or(in.DataType, "text")
	v.description, v.pattern, v.policies = in.Description, in.AllowedPattern, policies
	v.changed = in.Changed
	if v.changed.IsZero() {
		v.changed = s.config.Now()
	}
	if err := s.seal(p, &v, in.Value); err != nil {
		return err
	}
	*p.latest() = v
	p.tags = maps.Clone(in.Tags)
	return nil
}

func (s *Server) keep(p *parameter) {
	s.parameters[p.name] = p
	s.parameterNames.add(p.name)
	delete(s.deleted, p.name)
}

// parameterARN is the ARN of the parameter of that name. It has one slash before
// the name, whether or not the name begins with one.
func (s *Server) parameterARN(name string) string {
	return s.arn("ssm", "parameter/"+strings.TrimPrefix(name, "/"))
}

// seal gives a version its value. A SecureString is encrypted as AWS encrypts
// it: in the Standard tier directly under the key, which kms Decrypt undoes; in
// the Advanced tier under a data key. (There AWS's format is that of its
// Encryption SDK; here it is the length of the encrypted data key, the encrypted
// data key and the encrypted value.)
func (s *Server) seal(p *parameter, v *parameterVersion, value string) error {
	if v.kind != secureString {
		v.text = value
		return nil
	}
	v.keyID = cmp.Or(v.keyID, parametersKey)
	k, err := s.usableKey(v.keyID)
	if err != nil {
		return invalidKeyID(err)
	}
	context := p.encryptionContext()
	blob := k.encrypt([]byte(value), context)
	if v.tier == advanced {
		dataKey := randomBytes(32)
		wrapped := k.encrypt(dataKey, context)
		blob = binary.BigEndian.AppendUint16(nil, uint16(len(wrapped)))
		blob = append(blob, wrapped...)
		blob = newAEAD(dataKey).Seal(blob, nil, []byte(value), additionalData(context))
	}
	v.text = base64.StdEncoding.EncodeToString(blob)
	return nil
}

// reveal is the reverse of seal.
func (s *Server) reveal(p *parameter, v *parameterVersion) (string, error) {
	if v.kind != secureString {
		return v.text, nil
	}
	blob, err := base64.StdEncoding.DecodeString(v.text)
	if err != nil {
		return "", err
	}
	context := p.encryptionContext()
	open := func(ciphertext []byte) ([]byte, error) {
		out, err := s.decrypt(call{}, decryptInput{CiphertextBlob: ciphertext, EncryptionContext: context})
		if err != nil {
			return nil, invalidKeyID(err)
		}
		return out.(decryptOutput).Plaintext, nil
	}
	if v.tier != advanced {
		plaintext, err := open(blob)
		return string(plaintext), err
	}
	n := 2 + binary.BigEndian.Uint16(blob)
	dataKey, err := open(blob[2:n])
	if err != nil {
		return "", err
	}
	plaintext, err := newAEAD(dataKey).Open(nil, nil, blob[n:], additionalData(context))
	return string(plaintext), err
}

func (p *parameter) encryptionContext() map[string]string {
	return map[string]string{"PARAMETER_ARN": p.arn}
}

func (s *Server) ssmOperations() map[string]operation {
	return map[string]operation{
		"ssm.PutParameter":            decoded(s.putParameter),
		"ssm.GetParameter":            decoded(s.getParameter),
		"ssm.GetParameters":           decoded(s.getParameters),
		"ssm.GetParametersByPath":     decoded(s.getParametersByPath),
		"ssm.GetParameterHistory":     decoded(s.getParameterHistory),
		"ssm.LabelParameterVersion":   decoded(s.labelParameterVersion),
		"ssm.UnlabelParameterVersion": decoded(s.unlabelParameterVersion),
		"ssm.DescribeParameters":      decoded(s.describeParameters),
		"ssm.DeleteParameter":         decoded(s.deleteParameter),
		"ssm.DeleteParameters":        decoded(s.deleteParameters),
		"ssm.AddTagsToResource":       decoded(s.addTagsToResource),
		"ssm.RemoveTagsFromResource":  decoded(s.removeTagsFromResource),
		"ssm.ListTagsForResource":     decoded(s.listTagsForResource),
	}
}

type getParameterInput struct {
	Name           string
	WithDecryption bool
}

type getParameterOutput struct{ Parameter parameterOutput }

type parameterOutput struct {
	Name, Type, Value string
	Version           int64
	Selector          string `json:",omitempty"`
	SourceResult      string `json:",omitempty"`
	LastModifiedDate  epoch
	ARN               string
	DataType          string `json:",omitempty"`
}

func (s *Server) getParameter(c call, in getParameterInput) (any, error) {
	out, err := s.readParameter(c, in.Name, in.WithDecryption)
	if err != nil {
		return nil, err
	}
	return getParameterOutput{out}, nil
}

// readParameter reads "name", "name:version" or "name:label", where the name may
// be an ARN.
func (s *Server) readParameter(c call, id string, decrypt bool) (parameterOutput, error) {
	if secretID, ok := strings.CutPrefix(id, secretReference); ok {
		return s.readReference(c, secretID, decrypt)
	}
	p, selector, ok := s.findParameter(id)
	if !ok {
		return parameterOutput{}, parameterNotFound()
	}
	if selector == "" {
		return s.parameterOutput(p, p.latest(), "", decrypt)
	}
	v := p.holder(selector)
	if number, err := strconv.ParseInt(selector, 10, 64); err == nil {
		v = p.version(number)
	}
	if v == nil {
		return parameterOutput{}, versionNotFound(selector, p)
	}
	return s.parameterOutput(p, v, ":"+selector, decrypt)
}

// findParameter finds the parameter of "id" or "id:selector", where the id is a
// name or an ARN.
func (s *Server) findParameter(id string) (p *parameter, selector string, ok bool) {
	name, arn := strings.CutPrefix(id, s.arn("ssm", "parameter/"))
	name, selector, _ = strings.Cut(name, ":")
	if arn {
		// Whether the name begins with a slash, its ARN does not tell.
		if p, ok := s.parameters["/"+name]; ok {
			return p, selector, true
		}
	}
	p, ok = s.parameters[name]
	return p, selector, ok
}

func (s *Server) parameterOutput(p *parameter, v *parameterVersion, selector string, decrypt bool) (parameterOutput, error) {
	out := parameterOutput{
		Name: p.name, Type: v.kind, Value: v.text, Version: v.number, Selector: selector,
		LastModifiedDate: epoch{v.changed}, ARN: p.arn, DataType: v.dataType,
	}
	if !decrypt {
		return out, nil
	}
	var err error
	out.Value, err = s.reveal(p, v)
	return out, err
}

// secretReference begins the names under which Parameter Store passes reads on to
// Secrets Manager.
const secretReference = "/aws/reference/secretsmanager/"

// readReference reads "name", "name:version id" or "name:stage" from Secrets
// Manager.
func (s *Server) readReference(c call, id string, decrypt bool) (parameterOutput, error) {
	if !decrypt {
		return parameterOutput{}, validation("WithDecryption flag must be True for retrieving a Secret Manager secret.")
	}
	name, selector, selected := strings.Cut(id, ":")
	in := getSecretValueInput{SecretId: name}
	if selected {
		if sec, ok := s.secrets[name]; ok && sec.version(selector) != nil {
			in.VersionId = selector
		} else {
			in.VersionStage = selector
		}
	}
	got, err := s.getSecretValue(c, in)
	if err != nil {
		return parameterOutput{}, &apiError{
			code:    "ParameterNotFound",
			message: fmt.Sprintf("An error occurred (ParameterNotFound) when referencing Secrets Manager: Secret %s not found.", secretReference+id),
		}
	}
	secret := got.(getSecretValueOutput)
	raw, err := json.Marshal(secret)
	if err != nil {
		return parameterOutput{}, err
	}
	out := parameterOutput{
		Name: secretReference + name, Type: secureString, SourceResult: string(raw),
		LastModifiedDate: epoch{secret.CreatedDate.Time}, ARN: secret.ARN,
	}
	if secret.SecretString != nil {
		out.Value = *secret.SecretString
	}
	if selected {
		out.Selector = ":" + selector
	}
	return out, nil
}

type getParametersInput struct {
	Names          []string
	WithDecryption bool
}

type getParametersOutput struct {
	Parameters        []parameterOutput
	InvalidParameters []string
}

func (s *Server) getParameters(c call, in getParametersInput) (any, error) {
	if err := checkNames(in.Names); err != nil {
		return nil, err
	}
	out := getParametersOutput{Parameters: []parameterOutput{}, InvalidParameters: []string{}}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(in.Names))) {
		p, err := s.readParameter(c, name, in.WithDecryption)
		switch code := errorCode(err); {
		case code == "ParameterNotFound" || code == "ParameterVersionNotFound":
			out.InvalidParameters = append(out.InvalidParameters, name)
		case err != nil:
			return nil, err
		default:
			out.Parameters = append(out.Parameters, p)
		}
	}
	return out, nil
}

func checkNames(list []string) error {
	if len(list) < 1 || len(list) > maxNames {
		return validation("1 validation error detected: Value at 'names' failed to satisfy constraint: Member must have length less than or equal to %d and greater than or equal to 1; it has %d", maxNames, len(list))
	}
	return nil
}

type getParametersByPathInput struct {
	Path                      string
	Recursive, WithDecryption bool
	ParameterFilters          []parameterFilter
	MaxResults                *int
	NextToken                 string
}

type getParametersByPathOutput struct {
	Parameters []parameterOutput
	NextToken  string `json:",omitempty"`
}

func (s *Server) getParametersByPath(_ call, in getParametersByPathInput) (any, error) {
	if !strings.HasPrefix(in.Path, "/") {
		return nil, validation("The parameter path must begin with a forward slash \"/\"")
	}
	for i := range in.ParameterFilters {
		if err := in.ParameterFilters[i].check("Type", "KeyId", "Label"); err != nil {
			return nil, err
		}
	}
	size, start, err := pageInput(in.MaxResults, maxNames, in.NextToken)
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(in.Path, "/") + "/"
	found := func(yield func(selectedVersion) bool) {
		for p := range s.parametersAfter(max(start, prefix)) {
			if !strings.HasPrefix(p.name, prefix) {
				return // the names are in order
			}
			if !under(in.Path, p.name, in.Recursive) {
				continue
			}
			one := selectedVersion{p, p.latest(), ""}
			for _, f := range in.ParameterFilters {
				if f.Key == "Label" {
					one.version, one.selector = p.firstHolder(f.Values)
				}
			}
			if one.version == nil || !matchAll(in.ParameterFilters, one) {
				continue
			}
			if !yield(one) {
				return
			}
		}
	}
	size = s.bestEffort("GetParametersByPath", size)
	list, next := cut(found, size, start, func(one selectedVersion) string { return one.name })
	out := getParametersByPathOutput{Parameters: []parameterOutput{}, NextToken: next}
	for _, one := range list {
		p, err := s.parameterOutput(one.parameter, one.version, one.selector, in.WithDecryption)
		if err != nil {
			return nil, err
		}
		out.Parameters = append(out.Parameters, p)
	}
	return out, nil
}

// selectedVersion is a version of a parameter and the selector that found it.
type selectedVersion struct {
	*parameter
	version  *parameterVersion
	selector string
}

// firstHolder finds the version that has one of the labels; nil if none has.
func (p *parameter) firstHolder(labels []string) (v *parameterVersion, selector string) {
	for _, label := range labels {
		if v := p.holder(label); v != nil {
			return v, ":" + label
		}
	}
	return nil, ""
}

// parametersAfter gives the parameters whose names come after start, in order.
func (s *Server) parametersAfter(start string) iter.Seq[*parameter] {
	return func(yield func(*parameter) bool) {
		for name := range s.parameterNames.after(start) {
			if p, ok := s.parameters[name]; ok && !yield(p) {
				return
			}
		}
	}
}

// pageInput checks what the caller of a list says about the page it wants.
func pageInput(maxResults *int, limit int, token string) (size int, start string, err error) {
	size = limit
	if maxResults != nil {
		size = *maxResults
	}
	if size < 1 || size > limit {
		return 0, "", validation("1 validation error detected: Value '%d' at 'maxResults' failed to satisfy constraint: Member must have value between 1 and %d", size, limit)
	}
	start, ok := parsePageToken(token)
	if !ok {
		return 0, "", &apiError{code: "InvalidNextToken", message: "The specified token isn't valid."}
	}
	return size, start, nil
}

type deleteParameterInput struct{ Name string }

func (s *Server) deleteParameter(c call, in deleteParameterInput) (any, error) {
	if !s.remove(c, in.Name) {
		return nil, parameterNotFound()
	}
	return struct{}{}, nil
}

type deleteParametersInput struct{ Names []string }

type deleteParametersOutput struct{ DeletedParameters, InvalidParameters []string }

func (s *Server) deleteParameters(c call, in deleteParametersInput) (any, error) {
	if err := checkNames(in.Names); err != nil {
		return nil, err
	}
	out := deleteParametersOutput{DeletedParameters: []string{}, InvalidParameters: []string{}}
	for _, name := range in.Names {
		if s.remove(c, name) {
			out.DeletedParameters = append(out.DeletedParameters, name)
		} else {
			out.InvalidParameters = append(out.InvalidParameters, name)
		}
	}
	return out, nil
}

// remove deletes a parameter with all its versions, and tells whether there was
// one.
func (s *Server) remove(c call, name string) bool {
	if _, ok := s.parameters[name]; !ok {
		return false
	}
	delete(s.parameters, name)
	s.deleted[name] = c.now
	return true
}

// Parameter Store's errors.

func parameterNotFound() error { return &apiError{code: "ParameterNotFound", message: ""} }

func versionNotFound(version any, p *parameter) error {
	return &apiError{
		code:    "ParameterVersionNotFound",
		message: fmt.Sprintf("Systems Manager could not find version %v of %s. Verify the version and try again.", version, p.name),
	}
}

// invalidKeyID is how Parameter Store passes on what KMS refused.
func invalidKeyID(err error) error {
	if api, ok := err.(*apiError); ok && api.code == "AccessDeniedException" {
		return err
	}
	return &apiError{code: "InvalidKeyId", message: err.Error()}
}
