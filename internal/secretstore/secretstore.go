// Package secretstore keeps an attempt's versions in Secrets Manager. It is
// one of the engine's two stores; see rotation.Store for the contract.
//
// A version's name is its VersionId, and the attempt's token is the VersionId
// of the version being made. Every call names versions by id. Labels are moved
// by one compare-and-swap, UpdateSecretVersionStage with RemoveFromVersionId.
package secretstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/keys"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Secrets Manager's staging labels.
const (
	labelCurrent  = "AWSCURRENT"
	labelPending  = "AWSPENDING"
	labelPrevious = "AWSPREVIOUS"
)

// Store is a rotation.Store for one rotation event.
type Store struct {
	// Keys tells the state of KMS keys, so that errors can name it. Nil: nothing is
	// known of keys.
	Keys *kms.Client

	client        *secretsmanager.Client
	rotationToken rotators.Secret
	key           string // of the secret; "": Secrets Manager's own. Load finds it

	rotated time.Time                  // when a rotation ended last
	labels  map[string][]string        // of each version, as Load found them
	values  map[string]rotators.Secret // of the versions read so far: they never change
}

var (
	_ rotation.Store     = (*Store)(nil)
	_ rotation.Keyed     = (*Store)(nil)
	_ rotation.Fenced    = (*Store)(nil)
	_ rotation.Forgetful = (*Store)(nil)
)

// New returns a store for one event. rotationToken is the event's, or zero: it
// proves to Secrets Manager, when a role of another account is used, that the
// write belongs to a rotation it started.
func New(client *secretsmanager.Client, rotationToken rotators.Secret) *Store {
	return &Store{client: client, rotationToken: rotationToken}
}

// Load implements rotation.Store. It costs one DescribeSecret. That call shows
// a pending version whether it has a value or not, so Load says Stored for
// both, as the contract allows.
func (s *Store) Load(ctx context.Context, id, token string) (*rotation.Attempt, error) {
	secret, err := s.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &id})
	if isNotFound(err) {
		return nil, rotators.Permanent(fmt.Errorf("there is no such secret in this account and region: %w", err))
	}
	if err != nil {
		return nil, fmt.Errorf("describing the secret: %w", err)
	}
	if err := rotatable(secret); err != nil {
		return nil, rotators.Permanent(err)
	}
	tags := map[string]string{}
	for _, tag := range secret.Tags {
		tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	s.rotated = aws.ToTime(secret.LastRotatedDate)
	s.key, s.labels = aws.ToString(secret.KmsKeyId), secret.VersionIdsToStages
	a := &rotation.Attempt{ID: aws.ToString(secret.ARN), Token: token, Written: append(rotation.Written(tags), aws.ToString(secret.KmsKeyId))}
	if !s.rotationToken.IsZero() {
		a.Known = []rotators.Secret{s.rotationToken}
	}
	if a.Tags, err = rotation.ReadTags(tags); err != nil {
		return nil, err
	}
	a.Current = labelled(secret.VersionIdsToStages, labelCurrent)
	if token == "" {
		if token = labelled(secret.VersionIdsToStages, labelPending); token == "" {
			token = a.Current
		}
		a.Token = token
	}
	if a.Tags.Retire == a.Current {
		a.Tags.Retire = ""
	}
	a.Former = labelled(secret.VersionIdsToStages, labelPrevious)
	if a.Previous = a.Tags.Retire; a.Previous == "" {
		a.Previous = a.Former
	}
	labels, found := secret.VersionIdsToStages[token]
	switch {
	case slices.Contains(labels, labelCurrent):
		a.State = rotation.Current
	case slices.Contains(labels, labelPending):
		a.State = rotation.Stored
	case found:
		a.State = rotation.Superseded
	default:
		// A version that lost its labels is no longer described, but listed.
		for v, err := range s.unlabelled(ctx, a.ID) {
			if err != nil {
				return nil, err
			}
			if aws.ToString(v.VersionId) == token {
				a.State = rotation.Superseded
			}
		}
	}
	return a, nil
}

// ErrRotationOff says that somebody has turned the secret's rotation off.
var ErrRotationOff = errors.New("rotation is not enabled for the secret: start it with rotate-secret --rotation-lambda-arn")

// ErrDeleted says that the secret is deleted, or will be and answers no more until then.
var ErrDeleted = errors.New("the secret is scheduled for deletion: restore it first")

// ErrReplica says that the secret is a replica, whose value and tags are those of the
// primary one in another region.
var ErrReplica = errors.New("rotate it there, and the new value is replicated")

// rotatable says why a secret is not rekey's to rotate.
func rotatable(secret *secretsmanager.DescribeSecretOutput) error {
	here, err := arn.Parse(aws.ToString(secret.ARN))
	if err != nil {
		return fmt.Errorf("the secret's ARN is none: %w", err)
	}
	switch {
	case secret.DeletedDate != nil:
		return ErrDeleted
	case aws.ToString(secret.OwningService) != "":
		return fmt.Errorf("the secret is owned by the service %s, which rotates it itself: turn its rotation on there", *secret.OwningService)
	case aws.ToString(secret.Type) != "":
		return fmt.Errorf("the secret is a managed external secret (%s), which Secrets Manager rotates itself, without a function", *secret.Type)
	case secret.PrimaryRegion != nil && *secret.PrimaryRegion != here.Region:
		return fmt.Errorf("the secret is a replica of the one in %s: %w", *secret.PrimaryRegion, ErrReplica)
	case !aws.ToBool(secret.RotationEnabled):
		return ErrRotationOff
	}
	return nil
}

// Value implements rotation.Store.
func (s *Store) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (rotators.Secret, error) {
	get := &secretsmanager.GetSecretValueInput{SecretId: &a.ID}
	switch which {
	case rotation.CurrentValue:
		// Both, so that a label moved since Load is an error and not a mix-up.
		get.VersionId, get.VersionStage = &a.Current, aws.String(labelCurrent)
	case rotation.PendingValue:
		get.VersionId, get.VersionStage = &a.Token, aws.String(labelPending)
	default:
		get.VersionId = &a.Previous
	}
	if *get.VersionId == "" {
		return rotators.Secret{}, nil
	}
	value, binary, err := s.read(ctx, get)
	if err == nil && binary {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("version %s holds binary data, and rekey rotates text: store it as a SecretString", *get.VersionId))
	}
	return value, err
}

// read names no version in its errors: an owner may choose an id of 64 characters, which could hold
// guesses at another secret (see rotation.Attempt.Written). It returns the zero Secret for a
// version that has no value, or is gone, and the bytes of a binary version as text, with binary
// set: rekey rotates no such value.
func (s *Store) read(ctx context.Context, get *secretsmanager.GetSecretValueInput) (value rotators.Secret, binary bool, err error) {
	v, err := s.client.GetSecretValue(ctx, get)
	switch {
	case isNotFound(err):
		return rotators.Secret{}, false, nil
	case err != nil:
		return rotators.Secret{}, false, fmt.Errorf("reading one of its versions: %w", s.explain(ctx, get, err))
	case v.SecretString == nil:
		return rotators.NewSecret(string(v.SecretBinary)), true, nil
	}
	value = rotators.NewSecret(*v.SecretString)
	if s.values == nil {
		s.values = map[string]rotators.Secret{}
	}
	s.values[*get.VersionId] = value
	return value, false, nil
}

// generatedKey is the form of the ids and ARNs that KMS gives keys.
var generatedKey = regexp.MustCompile(`^(arn:[\w:-]+:key/)?(mrk-[0-9a-f]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$`)

// Held implements rotation.Store. It reads the versions that were not read before. The
// bytes of a binary version count as its text: an application may have stored the
// credential in a file of its own.
func (s *Store) Held(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotation.Held, error] {
	return func(yield func(rotation.Held, error) bool) {
		uses := map[string]rotators.Use{}
		for version, labels := range s.labels {
			switch {
			case slices.Contains(labels, labelPending) && !slices.Contains(labels, labelCurrent):
				// The engine reads it by itself.
			case version == a.Former && len(labels) == 1:
				uses[version] = rotators.Former
			case len(labels) > 0:
				uses[version] = rotators.InUse
			}
		}
		// A label of the owner's own counts for more than an order to retire the version.
		if a.Tags.Retire != "" && uses[a.Tags.Retire] == rotators.Unused {
			uses[a.Tags.Retire] = rotators.Former
		}
		for version, use := range uses {
			value, known := s.values[version]
			if !known {
				var err error
				value, _, err = s.read(ctx, &secretsmanager.GetSecretValueInput{SecretId: &a.ID, VersionId: &version})
				if err != nil {
					yield(rotation.Held{}, err)
					return
				}
			}
			if !value.IsZero() && !yield(rotation.Held{Value: value, Use: use}, nil) {
				return
			}
		}
	}
}

// explain names the key by which a version cannot be decrypted. It need not be the
// secret's, which may have been changed since.
func (s *Store) explain(ctx context.Context, get *secretsmanager.GetSecretValueInput, err error) error {
	if !keys.IsFailure(err) {
		return err
	}
	key := s.key
	for v, listErr := range s.versions(ctx, *get.SecretId, true) {
		if listErr != nil {
			break // the secret's key is a good guess
		}
		// Any other name is its owner's choice, and no error shows it: see read.
		if aws.ToString(v.VersionId) == *get.VersionId && len(v.KmsKeyIds) > 0 && generatedKey.MatchString(v.KmsKeyIds[0]) {
			key = v.KmsKeyIds[0]
		}
	}
	return keys.Explain(ctx, s.Keys, key, err)
}

// KeyUsable implements rotation.Keyed. It costs one call, and none if the key is
// Secrets Manager's own.
func (s *Store) KeyUsable(ctx context.Context, _ *rotation.Attempt) error {
	if s.Keys == nil {
		return nil
	}
	return keys.Usable(ctx, s.Keys, s.key)
}

// Leftovers implements rotation.Store: the versions that carry no label. It
// skips those whose value is gone or is binary.
func (s *Store) Leftovers(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotators.Secret, error] {
	return func(yield func(rotators.Secret, error) bool) {
		var found []types.SecretVersionsListEntry
		for v, err := range s.unlabelled(ctx, a.ID) {
			if err != nil {
				yield(rotators.Secret{}, err)
				return
			}
			if v.CreatedDate != nil {
				found = append(found, v)
			}
		}
		slices.SortFunc(found, func(a, b types.SecretVersionsListEntry) int { return b.CreatedDate.Compare(*a.CreatedDate) })
		for _, v := range found {
			value, binary, err := s.read(ctx, &secretsmanager.GetSecretValueInput{SecretId: &a.ID, VersionId: v.VersionId})
			if err == nil && (binary || value.IsZero()) {
				continue
			}
			if !yield(value, err) {
				return
			}
		}
	}
}

// versions lists the secret's versions; with unlabelled, also those without a label. It
// costs a call for each hundred.
func (s *Store) versions(ctx context.Context, id string, unlabelled bool) iter.Seq2[types.SecretVersionsListEntry, error] {
	return func(yield func(types.SecretVersionsListEntry, error) bool) {
		pages := secretsmanager.NewListSecretVersionIdsPaginator(s.client, &secretsmanager.ListSecretVersionIdsInput{
			SecretId: &id, IncludeDeprecated: aws.Bool(unlabelled),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.SecretVersionsListEntry{}, fmt.Errorf("listing the secret's versions: %w", err))
				return
			}
			for _, v := range page.Versions {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}

// unlabelled lists the versions without a label.
func (s *Store) unlabelled(ctx context.Context, id string) iter.Seq2[types.SecretVersionsListEntry, error] {
	return func(yield func(types.SecretVersionsListEntry, error) bool) {
		for v, err := range s.versions(ctx, id, true) {
			if (err != nil || len(v.VersionStages) == 0) && !yield(v, err) {
				return
			}
		}
	}
}

// maxValue is how many bytes a value of a secret may have.
const maxValue = 65536

// PutPending implements rotation.Store. The token makes it safe to send twice.
func (s *Store) PutPending(ctx context.Context, a *rotation.Attempt, value rotators.Secret) error {
	if n := len(value.Reveal()); n > maxValue {
		return rotators.Permanent(fmt.Errorf("the new value has %d bytes, and a secret holds %d: shorten the value; of a keyring, a shorter grace keeps fewer keys", n, maxValue))
	}
	put := &secretsmanager.PutSecretValueInput{
		SecretId:           &a.ID,
		ClientRequestToken: &a.Token,
		SecretString:       aws.String(value.Reveal()),
		VersionStages:      []string{labelPending},
	}
	if !s.rotationToken.IsZero() {
		put.RotationToken = aws.String(s.rotationToken.Reveal())
	}
	_, err := s.client.PutSecretValue(ctx, put)
	var exists *types.ResourceExistsException
	if errors.As(err, &exists) {
		return rotation.ErrStored
	}
	// What AWS refuses for the secret's or the value's sake is certainly not stored.
	var deleted *types.InvalidRequestException
	var invalid *types.InvalidParameterException
	if isNotFound(err) || errors.As(err, &deleted) || errors.As(err, &invalid) {
		return rotators.Permanent(err)
	}
	return keys.Explain(ctx, s.Keys, s.key, err)
}

// Promote implements rotation.Store. Secrets Manager takes AWSPENDING off the
// version in the same call; taking it off in a call of its own would tell
// Secrets Manager that the rotation failed.
func (s *Store) Promote(ctx context.Context, a *rotation.Attempt) error {
	if a.Tags.Retire != "" {
		if err := s.Remember(ctx, a); err != nil {
			return err
		}
	}
	move := &secretsmanager.UpdateSecretVersionStageInput{
		SecretId:        &a.ID,
		VersionStage:    aws.String(labelCurrent),
		MoveToVersionId: &a.Token,
	}
	if a.Current != "" {
		move.RemoveFromVersionId = &a.Current
	}
	_, err := s.client.UpdateSecretVersionStage(ctx, move)
	var stale *types.InvalidParameterException
	if !errors.As(err, &stale) {
		return err
	}
	// The label is not where it was: moved by an earlier try of this very call
	// whose reply was lost, or by somebody else.
	secret, describeErr := s.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &a.ID})
	if describeErr != nil {
		return errors.Join(err, describeErr)
	}
	switch current := labelled(secret.VersionIdsToStages, labelCurrent); current {
	case a.Token:
		return nil
	case a.Current:
		return err
	default:
		return rotators.Permanent(fmt.Errorf("readers get version %s since, and that stays so: %w", current, err))
	}
}

// Retired implements rotation.Store. The record is written before the order is taken away: a
// crash in between retires once more, which does nothing. Only where there is no room for both
// tags the order goes first, and a crash in between leaves an older record.
func (s *Store) Retired(ctx context.Context, a *rotation.Attempt) error {
	err := s.tag(ctx, a, rotation.TagRetired, a.Tags.Retire)
	var full *types.InvalidParameterException
	if err != nil && !errors.As(err, &full) {
		return err
	}
	// A rotation may have begun and ended meanwhile, and ordered another retirement.
	secret, describeErr := s.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &a.ID})
	if describeErr != nil {
		return fmt.Errorf("describing the secret: %w", describeErr)
	}
	for _, tag := range secret.Tags {
		order, _, _ := strings.Cut(aws.ToString(tag.Value), " ")
		if aws.ToString(tag.Key) != rotation.TagRetire || order != a.Tags.Retire {
			continue
		}
		if err := s.untag(ctx, a, rotation.TagRetire); err != nil {
			return err
		}
	}
	if err != nil {
		return s.tag(ctx, a, rotation.TagRetired, a.Tags.Retire)
	}
	return nil
}

// Fence implements rotation.Fenced.
func (s *Store) Fence(ctx context.Context, a *rotation.Attempt, key string, until time.Time) error {
	return s.tagInRoom(ctx, a, key, until.UTC().Format(time.RFC3339))
}

// Unfence implements rotation.Fenced.
func (s *Store) Unfence(ctx context.Context, a *rotation.Attempt, keys ...string) error {
	return s.untag(ctx, a, keys...)
}

// PromotedAt implements rotation.Forgetful. It costs one ListSecretVersionIds, and more for
// more than a hundred versions.
func (s *Store) PromotedAt(ctx context.Context, a *rotation.Attempt) (time.Time, error) {
	if s.rotated.IsZero() {
		return time.Time{}, nil
	}
	for v, err := range s.versions(ctx, a.ID, false) {
		if err != nil {
			return time.Time{}, err
		}
		// What is newer than the end of the last rotation was stored by a person.
		if aws.ToString(v.VersionId) == a.Current && v.CreatedDate != nil && !v.CreatedDate.After(s.rotated) {
			return s.rotated, nil
		}
	}
	return time.Time{}, nil
}

// Remember implements rotation.Forgetful.
func (s *Store) Remember(ctx context.Context, a *rotation.Attempt) error {
	return s.tagInRoom(ctx, a, rotation.TagRetire, a.Tags.RetireOrder())
}

// tagInRoom writes a tag. Where there is no room for one more, the record of the retirement
// before makes some: the next retirement will write its own.
func (s *Store) tagInRoom(ctx context.Context, a *rotation.Attempt, key, value string) error {
	err := s.tag(ctx, a, key, value)
	var full *types.InvalidParameterException
	if a.Tags.Retired == "" || !errors.As(err, &full) {
		return err
	}
	if err := s.untag(ctx, a, rotation.TagRetired); err != nil {
		return err
	}
	return s.tag(ctx, a, key, value)
}

func (s *Store) tag(ctx context.Context, a *rotation.Attempt, key, value string) error {
	_, err := s.client.TagResource(ctx, &secretsmanager.TagResourceInput{
		SecretId: &a.ID, Tags: []types.Tag{{Key: &key, Value: &value}},
	})
	if err != nil {
		return fmt.Errorf("writing the tag %s: %w", key, err)
	}
	return nil
}

// labelled finds the version a label is on; "" if on none.
func labelled(stages map[string][]string, label string) string {
	for version, labels := range stages {
		if slices.Contains(labels, label) {
			return version
		}
	}
	return ""
}

// isNotFound is true for Secrets Manager's own word only.
func isNotFound(err error) bool {
	var notFound *types.ResourceNotFoundException
	return errors.As(err, &notFound)
}

func (s *Store) untag(ctx context.Context, a *rotation.Attempt, keys ...string) error {
	_, err := s.client.UntagResource(ctx, &secretsmanager.UntagResourceInput{SecretId: &a.ID, TagKeys: keys})
	if err != nil {
		return fmt.Errorf("removing the tag %s: %w", strings.Join(keys, ", "), err)
	}
	return nil
}
