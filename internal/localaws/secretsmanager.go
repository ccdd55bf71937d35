package localaws

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The labels with a meaning.
const (
	current  = "AWSCURRENT"
	pending  = "AWSPENDING"
	previous = "AWSPREVIOUS"
)

// Limits of Secrets Manager.
const (
	maxValue    = 65536          // bytes of a value
	maxLabels   = 20             // labels on all versions of a secret together
	maxVersions = 100            // versions of a secret
	youth       = 24 * time.Hour // a version younger than this is never removed
	maxPage     = 100            // entries of one page of a list
)

// Secret is what tests can make of a secret that no call to this server could.
type Secret struct {
	// OwningService is the service that manages the secret, "rds" say. It alone
	// may write it.
	OwningService string
	// PrimaryRegion is where a replicated secret is written. In another region
	// than the server's, the secret here is a replica.
	PrimaryRegion string
	// Type is the partner type of a managed external secret.
	Type string
	// Rotated is when a rotation ended last.
	Rotated time.Time
}

// secret is one secret with all its versions.
type secret struct {
	Secret
	name, arn   string
	description string
	keyID       string // as the caller spelled it; "": the default key
	tags        []tag  // in order of their first appearance
	tagged      bool   // whether it ever had any
	versions    []*version

	created, changed, accessed time.Time
	deletion                   time.Time // when a scheduled deletion is due; zero: none is

	rotationEnabled *bool  // nil: rotation was never configured
	function        string // ARN
	rules           *rotationRules
	next            time.Time
	rotation        *rotation // the latest, running or over; nil: none yet
}

// version is one value of a secret, or the empty version that RotateSecret
// makes before there is one.
type version struct {
	id       string
	value    value
	labels   []string // in the order they were attached
	keyID    string   // what the value is encrypted under
	created  time.Time
	accessed time.Time
	lagging  bool // GetSecretValue does not find it yet
}

// value is what a version holds: a string or bytes, or nothing yet.
type value struct {
	SecretString *string `json:",omitempty"`
	SecretBinary []byte  `json:",omitempty"`
}

func (v value) empty() bool { return v.SecretString == nil && v.SecretBinary == nil }

func (v value) equal(other value) bool {
	if v.SecretString == nil || other.SecretString == nil {
		return v.SecretString == other.SecretString && bytes.Equal(v.SecretBinary, other.SecretBinary)
	}
	return *v.SecretString == *other.SecretString
}

// check refuses a value AWS would refuse; none at all is left to the caller.
func (v value) check() error {
	if v.SecretString != nil && v.SecretBinary != nil {
		return invalidParameter("You can't specify both a binary secret value and a string secret value in the same secret.")
	}
	n := len(v.SecretBinary)
	if v.SecretString != nil {
		n = len(*v.SecretString)
	}
	if !v.empty() && (n == 0 || n > maxValue) {
		return validation("the secret value must be 1 to %d bytes long, and this one has %d", maxValue, n)
	}
	return nil
}

type tag struct{ Key, Value string }

func (v *version) has(label string) bool { return slices.Contains(v.labels, label) }

func (v *version) drop(label string) {
	v.labels = slices.DeleteFunc(v.labels, func(l string) bool { return l == label })
}

// version finds a version by id; nil if there is none.
func (sec *secret) version(id string) *version {
	for _, v := range sec.versions {
		if v.id == id {
			return v
		}
	}
	return nil
}

// holder finds the version that has a label; nil if none has.
func (sec *secret) holder(label string) *version {
	for _, v := range sec.versions {
		if v.has(label) {
			return v
		}
	}
	return nil
}

// attach puts a label on a version, and off any other. AWSPREVIOUS goes where
// AWSCURRENT was, and AWSPENDING leaves the version that becomes current.
func (sec *secret) attach(label string, to *version) {
	from := sec.holder(label)
	if from == to {
		return
	}
	if from != nil {
		from.drop(label)
	}
	to.labels = append(to.labels, label)
	if label == current {
		to.drop(pending)
		if from != nil {
			sec.attach(previous, from)
		}
	}
}

// open tells which version an unfinished rotation left or keeps pending; nil if
// there is none. AWSPENDING on the current version is the mark of a finished one.
func (sec *secret) open() *version {
	if v := sec.holder(pending); v != nil && !v.has(current) {
		return v
	}
	return nil
}

// stages maps version ids to labels, for versions that have any.
func (sec *secret) stages() map[string][]string {
	m := map[string][]string{}
	for _, v := range sec.versions {
		if len(v.labels) > 0 {
			m[v.id] = v.labels
		}
	}
	return m
}

func (s *Server) secretsManagerOperations() map[string]operation {
	return map[string]operation{
		"secretsmanager.CreateSecret":             decoded(s.createSecret),
		"secretsmanager.DescribeSecret":           decoded(s.describeSecret),
		"secretsmanager.GetSecretValue":           decoded(s.getSecretValue),
		"secretsmanager.PutSecretValue":           decoded(s.putSecretValue),
		"secretsmanager.UpdateSecret":             decoded(s.updateSecret),
		"secretsmanager.UpdateSecretVersionStage": decoded(s.updateSecretVersionStage),
		"secretsmanager.RotateSecret":             decoded(s.rotateSecret),
		"secretsmanager.CancelRotateSecret":       decoded(s.cancelRotateSecret),
		"secretsmanager.ListSecretVersionIds":     decoded(s.listSecretVersionIDs),
		"secretsmanager.ListSecrets":              decoded(s.listSecrets),
		"secretsmanager.TagResource":              decoded(s.tagResource),
		"secretsmanager.UntagResource":            decoded(s.untagResource),
		"secretsmanager.DeleteSecret":             decoded(s.deleteSecret),
		"secretsmanager.RestoreSecret":            decoded(s.restoreSecret),
	}
}

// Edit changes what no call can change. f runs with the server locked: it must
// not call it.
func (s *Server) Edit(secretID string, f func(*Secret)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sec, err := s.find(secretID)
	if err != nil {
		return err
	}
	f(&sec.Secret)
	return nil
}

type secretInput struct{ SecretId string }

// versionOutput is what the writing operations answer.
type versionOutput struct {
	ARN, Name     string
	VersionId     string   `json:",omitempty"`
	VersionStages []string `json:",omitempty"`
}

type createSecretInput struct {
	Name, ClientRequestToken, Description, KmsKeyId, Type string
	Tags                                                  []tag
	value
}

// secretName is what AWS's error text says a name may be.
var secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)

func (s *Server) createSecret(c call, in createSecretInput) (any, error) {
	if !secretName.MatchString(in.Name) {
		return nil, validation("Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!")
	}
	token, err := tokenOrNew(in.ClientRequestToken)
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	if old, ok := s.secrets[in.Name]; ok {
		v := old.version(token)
		switch {
		case !old.deletion.IsZero():
			return nil, invalidRequest("You can't create this secret because a secret with this name is already scheduled for deletion.")
		case v != nil && v.value.equal(in.value):
			return versionOutput{ARN: old.arn, Name: old.name, VersionId: v.id}, nil
		}
		return nil, resourceExists("The operation failed because the secret %s already exists.", in.Name)
	}
	sec := &secret{
		Secret:      Secret{Type: in.Type},
		name:        in.Name,
		arn:         s.arn("secretsmanager", "secret:"+in.Name+"-"+randomSuffix()),
		description: in.Description,
		keyID:       in.KmsKeyId,
		created:     c.now,
		changed:     c.now,
	}
	sec.setTags(in.Tags)
	out := versionOutput{ARN: sec.arn, Name: sec.name}
	if !in.empty() {
		if _, err := s.store(c, sec, token, in.value, []string{current}); err != nil {
			return nil, err
		}
		out.VersionId = token
	}
	s.secrets[sec.name], s.arns[sec.arn] = sec, sec
	s.secretNames.add(sec.name)
	return out, nil
}

// secretEntry is what describing and listing have in common.
type secretEntry struct {
	ARN, Name         string
	Type              string         `json:",omitempty"`
	Description       string         `json:",omitempty"`
	KmsKeyId          string         `json:",omitempty"`
	RotationEnabled   *bool          `json:",omitempty"`
	RotationLambdaARN string         `json:",omitempty"`
	RotationRules     *rotationRules `json:",omitempty"`
	LastRotatedDate   epoch          `json:",omitzero"`
	LastChangedDate   epoch          `json:",omitzero"`
	LastAccessedDate  epoch          `json:",omitzero"`
	DeletedDate       epoch          `json:",omitzero"`
	NextRotationDate  epoch          `json:",omitzero"`
	Tags              []tag          `json:",omitempty"`
	OwningService     string         `json:",omitempty"`
	CreatedDate       epoch
	PrimaryRegion     string `json:",omitempty"`
}

// entry gives every field that has a value and leaves the others out.
func (sec *secret) entry() secretEntry {
	return secretEntry{
		ARN:               sec.arn,
		Name:              sec.name,
		Type:              sec.Type,
		Description:       sec.description,
		KmsKeyId:          sec.keyID,
		RotationEnabled:   sec.rotationEnabled,
		RotationLambdaARN: sec.function,
		RotationRules:     sec.rules,
		LastRotatedDate:   epoch{sec.Rotated},
		LastChangedDate:   epoch{sec.changed},
		LastAccessedDate:  epoch{sec.accessed},
		DeletedDate:       epoch{sec.deletion},
		NextRotationDate:  epoch{sec.next},
		Tags:              sec.tags,
		OwningService:     sec.OwningService,
		CreatedDate:       epoch{sec.created},
		PrimaryRegion:     sec.PrimaryRegion,
	}
}

type describeSecretOutput struct {
	secretEntry
	VersionIdsToStages map[string][]string `json:",omitempty"`
}

func (s *Server) describeSecret(_ call, in secretInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	return describeSecretOutput{sec.entry(), sec.stages()}, nil
}

type getSecretValueInput struct{ SecretId, VersionId, VersionStage string }

type getSecretValueOutput struct {
	ARN, Name, VersionId string
	value
	VersionStages []string `json:",omitempty"`
	CreatedDate   epoch
}

func (s *Server) getSecretValue(c call, in getSecretValueInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	if err := sec.exists(); err != nil {
		return nil, err
	}
	if in.VersionId == "" && in.VersionStage == "" {
		in.VersionStage = current
	}
	v, what := sec.holder(in.VersionStage), "staging label: "+in.VersionStage
	if in.VersionId != "" {
		v, what = sec.version(in.VersionId), "VersionId: "+in.VersionId
	}
	if v != nil && in.VersionStage != "" && !v.has(in.VersionStage) {
		return nil, invalidRequest("You provided a VersionStage that is not associated to the provided VersionId.")
	}
	if v == nil || v.value.empty() || v.lagging {
		return nil, notFound("Secrets Manager can't find the specified secret value for %s", what)
	}
	if err := s.canDecrypt(v.keyID); err != nil {
		return nil, err
	}
	v.accessed = c.now.UTC().Truncate(24 * time.Hour) // AWS keeps the day only
	sec.accessed = v.accessed
	return getSecretValueOutput{
		ARN: sec.arn, Name: sec.name, VersionId: v.id,
		value: v.value, VersionStages: v.labels, CreatedDate: epoch{v.created},
	}, nil
}

type putSecretValueInput struct {
	SecretId, ClientRequestToken, RotationToken string
	VersionStages                               []string
	value
}

// rotationToken is the form of a RotationToken. Which one is right AWS does not
// say, so any of that form will do.
var rotationToken = regexp.MustCompile(`^[a-zA-Z0-9-]{36,256}$`)

func (s *Server) putSecretValue(c call, in putSecretValueInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	token, err := tokenOrNew(in.ClientRequestToken)
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	switch {
	case in.empty():
		return nil, invalidRequest("You must provide either SecretString or SecretBinary.")
	case in.RotationToken != "" && !rotationToken.MatchString(in.RotationToken):
		return nil, validation("RotationToken must be 36 to 256 letters, digits and hyphens")
	case in.VersionStages != nil && len(in.VersionStages) == 0:
		return nil, validation("VersionStages must name at least one staging label")
	}
	if err := s.writable(sec); err != nil {
		return nil, err
	}
	labels := in.VersionStages
	if labels == nil {
		labels = []string{current}
	}
	if len(sec.versions) == 0 && !slices.Contains(labels, current) {
		labels = slices.Concat([]string{current}, labels)
	}
	v := sec.version(token)
	switch {
	case v == nil || v.value.empty():
		if v, err = s.store(c, sec, token, in.value, labels); err != nil {
			return nil, err
		}
	case !v.value.equal(in.value):
		return nil, tokenInUse(token, sec)
	}
	return versionOutput{ARN: sec.arn, Name: sec.name, VersionId: v.id, VersionStages: v.labels}, nil
}

type updateSecretInput struct {
	SecretId, ClientRequestToken string
	Description, KmsKeyId, Type  *string
	value
}

func (s *Server) updateSecret(c call, in updateSecretInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	token, err := tokenOrNew(in.ClientRequestToken)
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	if err := s.writable(sec); err != nil {
		return nil, err
	}
	if !in.empty() && sec.version(token) != nil {
		return nil, tokenInUse(token, sec)
	}
	was := sec.keyID
	var moved []*version
	if in.KmsKeyId != nil {
		if moved, err = s.recryptable(sec, *in.KmsKeyId); err != nil {
			return nil, err
		}
		sec.keyID = *in.KmsKeyId
	}
	out := versionOutput{ARN: sec.arn, Name: sec.name}
	if !in.empty() {
		if _, err := s.store(c, sec, token, in.value, []string{current}); err != nil {
			sec.keyID = was
			return nil, err
		}
		out.VersionId = token
	}
	for _, v := range moved {
		v.keyID = sec.keyID
	}
	if in.Description != nil {
		sec.description = *in.Description
	}
	if in.Type != nil {
		sec.Type = *in.Type
	}
	sec.changed = c.now
	return out, nil
}

// recryptable finds the values that move under another key with the secret:
// those that carry one of AWS's own labels, and no others.
func (s *Server) recryptable(sec *secret, keyID string) ([]*version, error) {
	var found []*version
	for _, label := range []string{current, pending, previous} {
		v := sec.holder(label)
		if v == nil || v.value.empty() || v.keyID == keyID {
			continue
		}
		if err := s.canDecrypt(v.keyID); err != nil {
			return nil, err
		}
		if k, err := s.resolveKey(keyID); err == nil && k.denied {
			continue // as AWS documents: what is there stays under the old key
		}
		if err := s.canEncrypt(keyID); err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, nil
}

type updateSecretVersionStageInput struct{ SecretId, VersionStage, RemoveFromVersionId, MoveToVersionId string }

func (s *Server) updateSecretVersionStage(c call, in updateSecretVersionStageInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	if err := s.writable(sec); err != nil {
		return nil, err
	}
	label, from := in.VersionStage, sec.holder(in.VersionStage)
	switch {
	case label == "" || len(label) > 256:
		return nil, validation("VersionStage must be 1 to 256 characters long")
	case in.RemoveFromVersionId == "" && in.MoveToVersionId == "":
		return nil, invalidParameter("Either RemoveFromVersionId or MoveToVersionId must be given.")
	case in.RemoveFromVersionId != "" && (from == nil || from.id != in.RemoveFromVersionId):
		return nil, invalidParameter("Staging label %s is not attached to version %s, which RemoveFromVersionId names.", label, in.RemoveFromVersionId)
	case in.RemoveFromVersionId == "" && from != nil && from.id != in.MoveToVersionId:
		return nil, invalidParameter("The parameter RemoveFromVersionId can't be empty. Staging label %s is currently attached to version %s, so you must explicitly reference that version in RemoveFromVersionId.", label, from.id)
	case in.MoveToVersionId == "" && label == current:
		return nil, invalidParameter("You can only move staging label AWSCURRENT to a different secret version. It can't be completely removed.")
	}
	if in.MoveToVersionId == "" {
		from.drop(label)
	} else {
		to := sec.version(in.MoveToVersionId)
		switch {
		case to == nil:
			return nil, notFound("Secrets Manager can't find the secret version %s.", in.MoveToVersionId)
		case label == current && to.value.empty():
			// AWS does not say what happens here. If it were allowed, readers would
			// get nothing, so the safe side is to refuse.
			return nil, invalidRequest("You can't move staging label AWSCURRENT to version %s because it has no value.", to.id)
		}
		if err := sec.roomFor(label); err != nil {
			return nil, err
		}
		sec.attach(label, to)
	}
	sec.changed = c.now
	return versionOutput{ARN: sec.arn, Name: sec.name}, nil
}

type listSecretVersionIDsInput struct {
	SecretId          string
	MaxResults        int
	NextToken         string
	IncludeDeprecated bool
}

type versionEntry struct {
	VersionId        string
	VersionStages    []string `json:",omitempty"`
	LastAccessedDate epoch    `json:",omitzero"`
	CreatedDate      epoch
	KmsKeyIds        []string
}

type listSecretVersionIDsOutput struct {
	ARN, Name string
	Versions  []versionEntry
	NextToken string `json:",omitempty"`
}

func (s *Server) listSecretVersionIDs(_ call, in listSecretVersionIDsInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	entries := []versionEntry{}
	for _, v := range slices.Backward(sec.versions) {
		if len(v.labels) == 0 && !in.IncludeDeprecated {
			continue
		}
		entries = append(entries, versionEntry{
			VersionId: v.id, VersionStages: v.labels,
			LastAccessedDate: epoch{v.accessed}, CreatedDate: epoch{v.created},
			KmsKeyIds: []string{cmp.Or(v.keyID, "DefaultEncryptionKey")},
		})
	}
	entries, next, err := page(entries, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return listSecretVersionIDsOutput{ARN: sec.arn, Name: sec.name, Versions: entries, NextToken: next}, nil
}

type listSecretsInput struct {
	IncludePlannedDeletion bool
	MaxResults             int
	NextToken              string
	Filters                []filter
	SortOrder, SortBy      string
}

type filter struct {
	Key    string
	Values []string
}

type listEntry struct {
	secretEntry
	SecretVersionsToStages map[string][]string `json:",omitempty"`
}

type listSecretsOutput struct {
	SecretList []listEntry
	NextToken  string `json:",omitempty"`
}

// listSecrets is exact at once. On AWS it may be five minutes late.
func (s *Server) listSecrets(_ call, in listSecretsInput) (any, error) {
	for _, f := range in.Filters {
		if _, ok := (&secret{}).attributes()[f.Key]; !ok && f.Key != "all" {
			return nil, validation("Filters has the key %q, which is none of name, description, tag-key, tag-value, primary-region, owning-service and all", f.Key)
		}
	}
	list := slices.DeleteFunc(slices.Collect(maps.Values(s.secrets)), func(sec *secret) bool {
		return !sec.deletion.IsZero() && !in.IncludePlannedDeletion ||
			slices.ContainsFunc(in.Filters, func(f filter) bool { return !f.match(sec) })
	})
	slices.SortFunc(list, func(a, b *secret) int {
		order := 0
		switch in.SortBy {
		case "", "created-date":
			order = a.created.Compare(b.created)
		case "last-changed-date":
			order = a.changed.Compare(b.changed)
		case "last-accessed-date":
			order = a.accessed.Compare(b.accessed)
		}
		order = cmp.Or(order, strings.Compare(a.name, b.name))
		if in.SortOrder == "desc" {
			return -order
		}
		return order
	})
	list, next, err := page(list, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := listSecretsOutput{SecretList: []listEntry{}, NextToken: next}
	for _, sec := range list {
		out.SecretList = append(out.SecretList, listEntry{sec.entry(), sec.stages()})
	}
	return out, nil
}

// attributes are what filters can ask for.
func (sec *secret) attributes() map[string][]string {
	m := map[string][]string{
		"name":           {sec.name},
		"description":    {sec.description},
		"primary-region": {sec.PrimaryRegion},
		"owning-service": {sec.OwningService},
		"tag-key":        {},
		"tag-value":      {},
	}
	for _, t := range sec.tags {
		m["tag-key"] = append(m["tag-key"], t.Key)
		m["tag-value"] = append(m["tag-value"], t.Value)
	}
	return m
}

// match tells whether an attribute begins with one of the values, or, for a
// value after "!", whether none begins with it.
func (f filter) match(sec *secret) bool {
	have := sec.attributes()[f.Key]
	if f.Key == "all" {
		have = slices.Concat(slices.Collect(maps.Values(sec.attributes()))...)
	}
	return slices.ContainsFunc(f.Values, func(want string) bool {
		want, not := strings.CutPrefix(want, "!")
		return not != slices.ContainsFunc(have, func(text string) bool { return strings.HasPrefix(text, want) })
	})
}

// page cuts one page out of a list. The token says where the next one begins.
func page[E any](list []E, size int, token string) (_ []E, next string, err error) {
	start := 0
	if token != "" {
		if start, err = strconv.Atoi(token); err != nil || start < 0 {
			return nil, "", &apiError{code: "InvalidNextTokenException", message: "The NextToken value is invalid."}
		}
	}
	switch {
	case size == 0:
		size = maxPage
	case size < 1 || size > maxPage:
		return nil, "", validation("MaxResults must be 1 to %d", maxPage)
	}
	start = min(start, len(list))
	end := min(start+size, len(list))
	if end < len(list) {
		next = strconv.Itoa(end)
	}
	return list[start:end], next, nil
}

type tagResourceInput struct {
	SecretId string
	Tags     []tag
}

func (s *Server) tagResource(c call, in tagResourceInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, t := range slices.Concat(sec.tags, in.Tags) {
		all[t.Key] = true
	}
	if len(all) > maxSecretTags {
		return nil, invalidParameter("You can't have more than 50 tags on a secret.") // AWS's own words are not known
	}
	return s.retag(c, in.SecretId, func(sec *secret) { sec.setTags(in.Tags) })
}

// maxSecretTags is AWS's limit.
const maxSecretTags = 50

type untagResourceInput struct {
	SecretId string
	TagKeys  []string
}

func (s *Server) untagResource(c call, in untagResourceInput) (any, error) {
	return s.retag(c, in.SecretId, func(sec *secret) {
		sec.tags = slices.DeleteFunc(sec.tags, func(t tag) bool { return slices.Contains(in.TagKeys, t.Key) })
	})
}

func (s *Server) retag(c call, secretID string, change func(*secret)) (any, error) {
	sec, err := s.find(secretID)
	if err != nil {
		return nil, err
	}
	if err := sec.exists(); err != nil {
		return nil, err
	}
	change(sec)
	sec.changed = c.now
	return struct{}{}, nil
}

func (sec *secret) setTags(tags []tag) {
	sec.tagged = sec.tagged || len(tags) > 0
	for _, t := range tags {
		if i := slices.IndexFunc(sec.tags, func(old tag) bool { return old.Key == t.Key }); i >= 0 {
			sec.tags[i] = t
		} else {
			sec.tags = append(sec.tags, t)
		}
	}
}

type deleteSecretInput struct {
	SecretId                   string
	RecoveryWindowInDays       *int
	ForceDeleteWithoutRecovery bool
}

type deleteSecretOutput struct {
	ARN, Name    string
	DeletionDate epoch
}

func (s *Server) deleteSecret(c call, in deleteSecretInput) (any, error) {
	days := 30
	if in.RecoveryWindowInDays != nil {
		days = *in.RecoveryWindowInDays
	}
	switch {
	case in.ForceDeleteWithoutRecovery && in.RecoveryWindowInDays != nil:
		return nil, invalidParameter("You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.")
	case days < 7 || days > 30:
		return nil, invalidParameter("The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).")
	}
	sec, err := s.find(in.SecretId)
	if err != nil {
		if in.ForceDeleteWithoutRecovery {
			return deleteSecretOutput{ARN: in.SecretId, Name: in.SecretId, DeletionDate: epoch{c.now}}, nil
		}
		return nil, err
	}
	if in.ForceDeleteWithoutRecovery {
		sec.deletion = c.now
		delete(s.secrets, sec.name)
		delete(s.arns, sec.arn)
	} else {
		if err := s.writable(sec); err != nil {
			return nil, err
		}
		sec.deletion = c.now.AddDate(0, 0, days)
	}
	return deleteSecretOutput{ARN: sec.arn, Name: sec.name, DeletionDate: epoch{sec.deletion}}, nil
}

func (s *Server) restoreSecret(_ call, in secretInput) (any, error) {
	sec, err := s.find(in.SecretId)
	if err != nil {
		return nil, err
	}
	sec.deletion = time.Time{}
	return versionOutput{ARN: sec.arn, Name: sec.name}, nil
}

// store gives a version its value: a new version, or an empty one. It ends any
// rotation of another version, as AWS does when a value is stored by hand.
func (s *Server) store(c call, sec *secret, token string, val value, labels []string) (*version, error) {
	if err := s.canEncrypt(sec.keyID); err != nil {
		return nil, err
	}
	if err := sec.roomFor(labels...); err != nil {
		return nil, err
	}
	v := sec.version(token)
	if v == nil {
		var err error
		if v, err = sec.add(token, c.now); err != nil {
			return nil, err
		}
	}
	v.value, v.keyID, v.lagging = val, sec.keyID, c.lag
	if open := sec.open(); open != nil && open != v {
		open.drop(pending)
	}
	for _, label := range labels {
		sec.attach(label, v)
	}
	if v.has(current) {
		sec.schedule(c.now) // to the schedule, storing by hand what readers get is a rotation
	}
	sec.changed = c.now
	return v, nil
}

// add makes a new, empty version. Beyond the limit it makes room by removing the
// oldest version that has no label and is old enough.
func (sec *secret) add(id string, now time.Time) (*version, error) {
	if len(sec.versions) >= maxVersions {
		i := slices.IndexFunc(sec.versions, func(v *version) bool {
			return len(v.labels) == 0 && now.Sub(v.created) >= youth
		})
		if i < 0 {
			return nil, &apiError{code: "LimitExceededException", message: fmt.Sprintf("The secret has %d versions, and none of them can be removed yet.", len(sec.versions))}
		}
		sec.versions = slices.Delete(sec.versions, i, i+1)
	}
	v := &version{id: id, created: now, keyID: sec.keyID}
	sec.versions = append(sec.versions, v)
	return v, nil
}

// roomFor refuses labels that would be too many, or that no label can be.
func (sec *secret) roomFor(labels ...string) error {
	all := map[string]bool{}
	for _, v := range sec.versions {
		for _, l := range v.labels {
			all[l] = true
		}
	}
	for _, l := range labels {
		if l == "" || len(l) > 256 {
			return validation("a staging label must be 1 to 256 characters long")
		}
		all[l] = true
	}
	if len(all) > maxLabels {
		return &apiError{code: "LimitExceededException", message: fmt.Sprintf("A secret can have %d staging labels on all its versions together.", maxLabels)}
	}
	return nil
}

// find finds a secret by its name, its ARN, or its ARN without the six random
// characters.
func (s *Server) find(id string) (*secret, error) {
	if id == "" {
		return nil, validation("SecretId must be 1 to 2048 characters long")
	}
	if sec, ok := s.arns[id]; ok {
		return sec, nil
	}
	if sec, ok := s.secrets[strings.TrimPrefix(id, s.arn("secretsmanager", "secret:"))]; ok {
		return sec, nil
	}
	return nil, notFound("Secrets Manager can't find the specified secret.")
}

// exists refuses what cannot be done with a secret scheduled for deletion.
func (sec *secret) exists() error {
	if !sec.deletion.IsZero() {
		return invalidRequest("You can't perform this operation on the secret because it was marked for deletion.")
	}
	return nil
}

// writable refuses to change a secret that is not to be changed here.
func (s *Server) writable(sec *secret) error {
	switch {
	case sec.OwningService != "":
		return invalidRequest("You can't perform this operation on the secret because it is managed by another service: %s.", sec.OwningService)
	case sec.PrimaryRegion != "" && sec.PrimaryRegion != s.config.Region:
		return invalidRequest("Operation not permitted on a replica secret. Call must be made in primary secret's region.")
	}
	return sec.exists()
}

// tokenOrNew checks a ClientRequestToken. SDKs always send one; for a caller who
// sends none, a new one.
func tokenOrNew(token string) (string, error) {
	switch {
	case token == "":
		return newUUID(), nil
	case len(token) < 32 || len(token) > 64:
		return "", invalidParameter("ClientRequestToken must be 32-64 characters long.")
	}
	return token, nil
}

// randomSuffix is what AWS ends the ARN of a secret with: six letters and digits.
func randomSuffix() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	suffix := make([]byte, 6)
	for i := range suffix {
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet)))) // never fails
		suffix[i] = alphabet[n.Int64()]
	}
	return string(suffix)
}

// Secrets Manager's errors.

func notFound(format string, args ...any) error {
	return &apiError{code: "ResourceNotFoundException", message: fmt.Sprintf(format, args...)}
}

func resourceExists(format string, args ...any) error {
	return &apiError{code: "ResourceExistsException", message: fmt.Sprintf(format, args...)}
}

func invalidRequest(format string, args ...any) error {
	return &apiError{code: "InvalidRequestException", message: fmt.Sprintf(format, args...)}
}

func invalidParameter(format string, args ...any) error {
	return &apiError{code: "InvalidParameterException", message: fmt.Sprintf(format, args...)}
}

// validation is how AWS's front end refuses input before the service sees it.
func validation(format string, args ...any) error {
	return &apiError{code: "ValidationException", message: fmt.Sprintf(format, args...)}
}

func tokenInUse(token string, sec *secret) error {
	return resourceExists("You can't use ClientRequestToken %s because that value is already in use for a version of secret %s.", token, sec.arn)
}
