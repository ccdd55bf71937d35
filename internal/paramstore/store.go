package paramstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/keys"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Store is a rotation.Driven for one order to rotate one parameter. It is for
// one goroutine.
type Store struct {
	// Keys tells the state of KMS keys, so that errors can name it. Nil: nothing is
	// known of keys.
	Keys *kms.Client
	// Adopt has the store take a record that is older than the base version for the
	// attempt's own: what clients get is known not to work, and the record may.
	Adopt bool

	client    *ssm.Client
	parameter Parameter
	writes    Limiter

	described  *Described        // read once, before anything is changed; nil before
	tags       map[string]string // read once, nil before
	connection string            // of siblings, read once
	waited     bool              // for the promotion's write
	seen       seen
	versions   map[string]rotators.Secret // that were read, by number
}

// Limiter is waited for before every call that counts as one of Parameter
// Store's writes, of which an account has three a second: PutParameter,
// DescribeParameters, GetParameterHistory.
type Limiter interface {
	Wait(context.Context) error
}

// seen is what the last read showed.
type seen struct {
	version          int64
	current, pending rotators.Secret // pending: the record; zero if there is none
	// stale: the record is older than the version, so it is of a parameter of this name that
	// was deleted.
	stale bool
}

var (
	_ rotation.Driven = (*Store)(nil)
	_ rotation.Keyed  = (*Store)(nil)
)

// New returns the store for one order.
func New(client *ssm.Client, p Parameter, writes Limiter) *Store {
	return &Store{client: client, parameter: p, writes: writes}
}

// ErrGone says that the parameter was deleted, and that no record of it is left.
var ErrGone = errors.New("there is no such parameter any more")

// ErrUntagged says that rekey may not read the parameter, whose tag rekey:rotator was
// taken off, and that no record of it is left.
var ErrUntagged = errors.New("the tag rekey:rotator was taken off")

// Load implements rotation.Store. It costs one GetParameters, the first time
// also one ListTagsForResource, and one GetParameter while the tag rekey:retire
// is there. The values it sees on the way are what Value returns.
//
// Where the attempt is not over yet, the first Load also describes the parameter, once
// and as one of the account's writes: how the parameter is stored is asked of Parameter
// Store and of nobody else. So what may not be rotated is refused before a rotator is
// asked for a new value, and what Set changes has been stored under all that promotion
// will send. If the attempt has a value already, Load waits for the promotion's write too.
//
// A token of this order is Current as soon as the record is gone and the version
// is past the base: the order is carried out, or was overtaken before anything
// was begun. In both cases nothing is left to do. It is also Current if readers
// get what the record holds, whatever the version: a parameter that was deleted
// and made anew with that value begins at version 1 again.
func (s *Store) Load(ctx context.Context, id, token string) (*rotation.Attempt, error) {
	a, err := s.Look(ctx, id, token)
	if err != nil || token != s.parameter.Token() || !open(a) {
		return a, err
	}
	if s.described == nil {
		d, err := s.describe(ctx)
		if err != nil {
			return nil, err
		}
		if d.Base != s.parameter.Base {
			// Somebody changed it after the look. If so another look shows that too.
			if a, err = s.Look(ctx, id, token); err != nil || !open(a) {
				return a, err
			}
			return nil, fmt.Errorf("the parameter is described as version %d and read as version %s: it was changed a moment ago; the next try will tell", d.Base, a.Current)
		}
		s.described = d
	}
	a.Written = append(a.Written, s.described.AllowedPattern, s.described.Description, s.described.KeyID)
	if a.State == rotation.Stored {
		err = s.waitToPromote(ctx)
	}
	return a, err
}

// open reports whether an attempt is one that something is still to be changed for.
func open(a *rotation.Attempt) bool {
	return a.State == rotation.Reserved || a.State == rotation.Stored
}

// describe asks how the parameter is stored. The error is permanent if the parameter is
// not one to rotate.
func (s *Store) describe(ctx context.Context) (*Described, error) {
	p := s.parameter
	found, err := describe(ctx, s.client, []string{p.Name}, s.writes.Wait)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if d.Name == p.Name && (d.ARN == p.ARN || d.ARN == "") { // the ARN is a late addition to this call
			return &d, d.Refused
		}
	}
	return nil, errors.New("Parameter Store reads the parameter and does not describe it: it was made or deleted a moment ago; the next try will tell")
}

// Look is Load without the description: it finds how far the attempt is, for who wants
// to know only whether there is anything to do.
func (s *Store) Look(ctx context.Context, id, token string) (*rotation.Attempt, error) {
	p := s.parameter
	if id != p.ARN {
		return nil, rotators.Permanent(fmt.Errorf("this order is for %s: order a rotation of %s by itself", p.ARN, id))
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	tags, err := s.Tags(ctx)
	if err != nil {
		return nil, err
	}
	a := &rotation.Attempt{ID: p.ARN, Token: token, Current: strconv.FormatInt(s.seen.version, 10), Written: rotation.Written(tags)}
	if a.Tags, err = rotation.ReadTags(tags); err != nil {
		return nil, err
	}
	if a.Tags.Connection == rotation.Siblings {
		if a.Tags.Connection, err = s.siblings(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.previous(ctx, a); err != nil {
		return nil, err
	}
	if token == "" {
		return a, s.openAttempt(ctx, a)
	}
	switch pending := !s.seen.pending.IsZero(); {
	case token != p.Token():
		a.State = rotation.Unknown
	case pending && s.seen.current.Equal(s.seen.pending):
		a.State = rotation.Current
	case s.seen.stale:
		a.State = rotation.Superseded
	case s.seen.version == p.Base && pending:
		a.State = rotation.Stored
	case s.seen.version == p.Base:
		a.State = rotation.Reserved
	case pending:
		a.State = rotation.Superseded
	default:
		a.State = rotation.Current
	}
	return a, nil
}

// openAttempt finds the attempt that is open: one that would replace what readers get
// now, whatever version the order was for. The record of an older version cannot
// be promoted any more, and one of what they get is promoted. If there is none, it
// is the attempt that made what they get.
func (s *Store) openAttempt(ctx context.Context, a *rotation.Attempt) (err error) {
	p, pending := s.parameter, s.seen.pending
	if p.Base != s.seen.version {
		p.Base = s.seen.version
		if pending, err = s.read(ctx, p.Record()); err != nil {
			return err
		}
	}
	a.State = rotation.Stored
	if pending.IsZero() || pending.Equal(s.seen.current) {
		a.State = rotation.Current
		p.Base--
	}
	a.Token = p.Token()
	return nil
}

// look reads the parameter and its record, in one call.
func (s *Store) look(ctx context.Context) error {
	p := s.parameter
	out, err := s.client.GetParameters(ctx, &ssm.GetParametersInput{
		Names: []string{p.Name, p.Record()}, WithDecryption: aws.Bool(true),
	})
	if isDenied(err) && !keys.IsFailure(err) {
		return s.denied(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("reading the parameter: %w", s.explain(ctx, err))
	}
	s.seen = seen{}
	found := false
	var changed, recorded time.Time
	for _, parameter := range out.Parameters {
		value := rotators.NewSecret(aws.ToString(parameter.Value))
		if aws.ToString(parameter.Name) == p.Record() {
			s.seen.pending, recorded = value, aws.ToTime(parameter.LastModifiedDate)
			continue
		}
		if arn := aws.ToString(parameter.ARN); arn != p.ARN {
			return rotators.Permanent(fmt.Errorf("the parameter of that name here is %s: order its rotation in the account and region it is of", arn))
		}
		if err := Refuse(p.Name, parameter.Type); err != nil {
			return err
		}
		found, s.seen.version, s.seen.current, changed = true, parameter.Version, value, aws.ToTime(parameter.LastModifiedDate)
	}
	s.seen.stale = !recorded.IsZero() && recorded.Before(changed) && s.seen.version == p.Base && !s.Adopt
	if !found {
		return s.gone()
	}
	return nil
}

// gone is the error about a parameter that is not there.
func (s *Store) gone() error {
	if !s.Begun() {
		return rotators.Permanent(ErrGone)
	}
	return rotators.Permanent(fmt.Errorf("the parameter was deleted while it was being rotated: the target may accept nothing but what %s holds; read it there if it is still needed, and delete that", s.parameter.Record()))
}

// denied says why the parameter may not be read. A policy that allows reading by a
// tag denies a parameter without the tag: one that lost its tag, and one that is not there.
func (s *Store) denied(ctx context.Context, denial error) error {
	s.seen, s.tags = seen{}, nil
	record := s.parameter.Record()
	var err error
	if s.seen.pending, err = s.read(ctx, record); err != nil {
		return err
	}
	tags, err := s.Tags(ctx)
	switch {
	case err != nil:
		return err
	case tags[rotation.TagPrefix+"rotator"] != "":
		return fmt.Errorf("reading the parameter, which this function's policy must allow: %w", denial)
	case s.Begun():
		return rotators.Permanent(fmt.Errorf("the tag rekey:rotator was taken off while the parameter was being rotated, and without it this function may not finish: the target may accept nothing but what %s holds; put the tag back, or read it there and delete that (%w)", record, denial))
	}
	return rotators.Permanent(ErrUntagged)
}

func isDenied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException"
}

// Tags are the parameter's tags, as they were when they were first asked for and
// with what the store has written since.
func (s *Store) Tags(ctx context.Context) (map[string]string, error) {
	if s.tags == nil {
		out, err := s.client.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{
			ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: &s.parameter.Name,
		})
		var missing *types.InvalidResourceId
		if errors.As(err, &missing) {
			return nil, s.gone()
		}
		if err != nil {
			return nil, fmt.Errorf("reading the parameter's tags: %w", err)
		}
		s.tags = map[string]string{}
		for _, tag := range out.TagList {
			s.tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
		}
	}
	return maps.Clone(s.tags), nil
}

// previous finds out which version is the previous one, and drops an order to
// retire what readers get. Versions cannot tell that alone: a promotion that is
// taken back by hand makes a new version of the old value.
func (s *Store) previous(ctx context.Context, a *rotation.Attempt) error {
	if a.Tags.Retire != "" {
		old, err := s.version(ctx, a.Tags.Retire)
		if err != nil {
			return err
		}
		if old.Equal(s.seen.current) {
			a.Tags.Retire = ""
		}
	}
	if s.seen.version > 1 {
		a.Former = strconv.FormatInt(s.seen.version-1, 10)
	}
	if a.Previous = a.Tags.Retire; a.Previous == "" {
		a.Previous = a.Former
	}
	return nil
}

// Held implements rotation.Store. It costs one or two GetParameterHistory, which count as
// writes, for the labels, and one GetParameter for each version that was not read before.
func (s *Store) Held(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotation.Held, error] {
	return func(yield func(rotation.Held, error) bool) {
		if !yield(rotation.Held{Value: s.seen.current, Use: rotators.InUse}, nil) {
			return
		}
		uses := map[string]rotators.Use{}
		for version, err := range s.history(ctx, 50) { // the most there are on a page
			if err != nil {
				yield(rotation.Held{}, err)
				return
			}
			if len(version.Labels) > 0 && version.Version != s.seen.version {
				uses[strconv.FormatInt(version.Version, 10)] = rotators.InUse
			}
		}
		// A label of the owner's own counts for more than an order to retire the version.
		for _, version := range []string{a.Former, a.Tags.Retire} {
			if version != "" && uses[version] == rotators.Unused {
				uses[version] = rotators.Former
			}
		}
		for version, use := range uses {
			value, err := s.versions[version], error(nil)
			if value.IsZero() {
				value, err = s.version(ctx, version)
			}
			if err == nil && value.IsZero() {
				continue
			}
			if !yield(rotation.Held{Value: value, Use: use}, err) || err != nil {
				return
			}
		}
	}
}

// history yields what is known of the parameter's versions but their values, the oldest
// first unless AWS changes the order, with so many to a page.
func (s *Store) history(ctx context.Context, page int32) iter.Seq2[types.ParameterHistory, error] {
	return func(yield func(types.ParameterHistory, error) bool) {
		pages := ssm.NewGetParameterHistoryPaginator(s.client, &ssm.GetParameterHistoryInput{Name: &s.parameter.Name, MaxResults: &page})
		for pages.HasMorePages() {
			if err := s.writes.Wait(ctx); err != nil {
				yield(types.ParameterHistory{}, err)
				return
			}
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.ParameterHistory{}, fmt.Errorf("looking for labels of the parameter's versions: %w", err))
				return
			}
			for _, version := range page.Parameters {
				if !yield(version, nil) {
					return
				}
			}
		}
	}
}

// Begun tells whether Load saw a record of this order.
func (s *Store) Begun() bool { return !s.seen.pending.IsZero() }

// Value implements rotation.Store. A record that Load did not see is looked for
// again: a value stored a moment ago may be late to be seen.
func (s *Store) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (rotators.Secret, error) {
	switch which {
	case rotation.CurrentValue:
		return s.seen.current, nil
	case rotation.PendingValue:
		if s.seen.pending.IsZero() && a.State != rotation.Current {
			pending, err := s.read(ctx, s.parameter.Record())
			if err != nil {
				return rotators.Secret{}, err
			}
			s.seen.pending = pending
		}
		return s.seen.pending, nil
	default:
		return s.version(ctx, a.Previous)
	}
}

// version reads a version of the parameter.
func (s *Store) version(ctx context.Context, version string) (rotators.Secret, error) {
	if version == "" {
		return rotators.Secret{}, nil
	}
	value, err := s.read(ctx, s.parameter.Name+":"+version)
	if s.versions == nil {
		s.versions = map[string]rotators.Secret{}
	}
	s.versions[version] = value
	return value, err
}

// read returns the zero Secret for what is not there.
func (s *Store) read(ctx context.Context, name string) (rotators.Secret, error) {
	out, err := s.client.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	var noParameter *types.ParameterNotFound
	var noVersion *types.ParameterVersionNotFound
	switch {
	case errors.As(err, &noParameter), errors.As(err, &noVersion):
		return rotators.Secret{}, nil
	case err != nil:
		return rotators.Secret{}, fmt.Errorf("reading %s: %w", name, s.explain(ctx, err))
	}
	return rotators.NewSecret(aws.ToString(out.Parameter.Value)), nil
}

// Leftovers implements rotation.Store: the records of attempts that were never
// finished, the newest first, and then the versions before the previous
// one.
func (s *Store) Leftovers(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotators.Secret, error] {
	return func(yield func(rotators.Secret, error) bool) {
		records, err := s.list(ctx)
		if err != nil {
			yield(rotators.Secret{}, err)
			return
		}
		for _, r := range slices.Backward(records) {
			if r.name == s.parameter.Record() && a.State != rotation.Superseded {
				continue // the pending value
			}
			value, err := s.read(ctx, r.name)
			if err == nil && value.IsZero() {
				continue
			}
			if !yield(value, err) {
				return
			}
		}
		for version := s.seen.version - 2; version >= max(1, s.seen.version-versionsKept); version-- {
			value, err := s.version(ctx, strconv.FormatInt(version, 10))
			if err == nil && value.IsZero() {
				return // dropped, and so are those before it
			}
			if !yield(value, err) {
				return
			}
		}
	}
}

// record is one of the parameter's records.
type record struct {
	name   string
	base   int64
	stored time.Time
}

// list finds the parameter's records, the oldest first. That need not be the one of
// the oldest base: of a parameter that was made anew the versions begin anew. It
// reads no value.
func (s *Store) list(ctx context.Context) ([]record, error) {
	var records []record
	path := s.parameter.records()
	pages := ssm.NewGetParametersByPathPaginator(s.client, &ssm.GetParametersByPathInput{Path: &path})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("looking for pending values under %s: %w", path, err)
		}
		for _, p := range page.Parameters {
			name := aws.ToString(p.Name)
			if base, err := strconv.ParseInt(strings.TrimPrefix(name, path), 10, 64); err == nil {
				records = append(records, record{name, base, aws.ToTime(p.LastModifiedDate)})
			}
		}
	}
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(a.stored.Compare(b.stored), cmp.Compare(a.base, b.base))
	})
	return records, nil
}

// The sizes of values, in bytes, by tier.
const (
	maxStandard = 4096
	maxAdvanced = 8192
)

// PutPending implements rotation.Store. Parameter Store itself keeps a record
// from being written twice. The record has the key, tier, type, pattern and description
// of the parameter, so that whatever Parameter Store would refuse when the value is
// promoted it refuses here, while nothing outside has been changed.
func (s *Store) PutPending(ctx context.Context, a *rotation.Attempt, value rotators.Secret) error {
	p := s.parameter
	if err := fits(s.described.Tier, value); err != nil {
		return rotators.Permanent(err)
	}
	if err := s.roomForVersion(ctx); err != nil {
		return err
	}
	put := s.put(p.Record(), value)
	put.Description = text(noted(p.ARN, s.described.Description))
	if err := s.writes.Wait(ctx); err != nil {
		return err
	}
	_, err := s.client.PutParameter(ctx, put)
	var exists *types.ParameterAlreadyExists
	if !errors.As(err, &exists) {
		if err != nil {
			return s.explain(ctx, err)
		}
		s.seen.pending = value
		return s.waitToPromote(ctx)
	}
	stored, err := s.read(ctx, p.Record())
	if err != nil {
		return err
	}
	if stored.IsZero() {
		return fmt.Errorf("%s exists and cannot be read: it was stored or deleted a moment ago; the next try will tell", p.Record())
	}
	s.seen.pending = stored
	if !stored.Equal(value) {
		return rotation.ErrStored
	}
	return nil
}

// maxDescription is how long a description may be: 1,024 characters. Here bytes are
// counted, of which there are never fewer.
const maxDescription = 1024

// noted is the description of a record: whose it is, and then the parameter's own, which
// promotion sends again. Where both are too long it is the parameter's own alone.
func noted(id, own string) string {
	note := "The pending value of a rotation by rekey of " + id + ". Do not delete: it may be the only credential that works."
	if own != "" {
		note += " " + own
	}
	if len(note) > maxDescription {
		return own
	}
	return note
}

// KeyUsable implements rotation.Keyed. It costs one call, and none if the key is
// Parameter Store's own.
func (s *Store) KeyUsable(ctx context.Context, _ *rotation.Attempt) error {
	if s.Keys == nil {
		return nil
	}
	return keys.Usable(ctx, s.Keys, s.described.KeyID)
}

// waitToPromote waits for the promotion's write before the target is changed, and
// not after: from then until the promotion readers may be locked out.
func (s *Store) waitToPromote(ctx context.Context) error {
	if s.waited {
		return nil
	}
	err := s.writes.Wait(ctx)
	s.waited = err == nil
	return err
}

// fits returns an error if Parameter Store would not take the value in this tier.
func fits(tier string, value rotators.Secret) error {
	limit := maxStandard
	if tier != string(types.ParameterTierStandard) {
		limit = maxAdvanced
	}
	text := value.Reveal()
	switch {
	case len(text) > limit:
		return fmt.Errorf("the new value has %d bytes, and a parameter of the tier %s holds %d: shorten it, or raise the tier", len(text), tier, limit)
	case strings.Contains(text, "{{"):
		return errors.New(`the new value holds "{{", which Parameter Store takes for a reference to another parameter and refuses: take it out of the value, or keep "{" out of passwords with rekey:password`)
	}
	return nil
}

// versionsKept is how many versions of a parameter there are at most. One more
// drops the oldest, unless that has a label: then it is refused.
const versionsKept = 100

// roomForVersion makes sure that promotion, which comes after the target was
// changed, will not be refused for a label.
func (s *Store) roomForVersion(ctx context.Context) error {
	p := s.parameter
	oldest := p.Base - versionsKept + 1
	if oldest < 1 {
		return nil
	}
	for version, err := range s.history(ctx, 1) { // the oldest comes first, so this is one call
		if err != nil {
			return err
		}
		if version.Version != oldest {
			continue
		}
		if len(version.Labels) > 0 {
			return rotators.Permanent(fmt.Errorf("the parameter has %d versions, and the oldest, version %d, cannot make room for the next because it has a label: take the label off with unlabel-parameter-version, or move it to a newer version", versionsKept, oldest))
		}
		return nil
	}
	return nil
}

// put is the call that stores a value as the parameter is stored. Whatever it
// left out, AWS might set to a default.
func (s *Store) put(name string, value rotators.Secret) *ssm.PutParameterInput {
	d := s.described
	return &ssm.PutParameterInput{
		Name: &name, Value: aws.String(value.Reveal()), Type: types.ParameterTypeSecureString,
		KeyId: text(d.KeyID), Tier: types.ParameterTier(d.Tier), DataType: text(d.DataType), AllowedPattern: text(d.AllowedPattern),
		Overwrite: aws.Bool(false),
	}
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// How often a promotion whose outcome is not clear is looked at and sent again,
// and how long it waits before. One that is throttled is sent again for as long as
// there is time, and half a minute at least: others use
// up the quota, and the target has the new value already, which readers lack.
const (
	promotions = 4
	rest       = time.Second
	throttled  = 120
	shortRest  = rest / 4
)

// Promote implements rotation.Store. Parameter Store has no compare-and-swap and
// no idempotency: sent twice, a value makes two versions. So the SDK does not
// send it again by itself, and it is sent again only after a look that shows
// that it did not arrive.
//
// Policies are not sent: AWS keeps them "until you send new policies".
func (s *Store) Promote(ctx context.Context, a *rotation.Attempt) error {
	if a.Tags.Retire != "" {
		if err := s.Order(ctx, a); err != nil {
			return err
		}
	}
	pending := s.seen.pending
	put := s.put(s.parameter.Name, pending)
	put.Overwrite = aws.Bool(true)
	put.Description = text(s.described.Description)
	for try, throttles := 1, 0; ; try++ {
		// The wait comes before the look, so that nothing stands between look and
		// write.
		if err := s.waitToPromote(ctx); err != nil {
			return err
		}
		s.waited = false
		if err := s.look(ctx); err != nil {
			return err
		}
		s.seen.pending = pending // the look may have missed it, and it is to be cleared up
		if s.seen.current.Equal(pending) {
			return nil
		}
		if s.seen.version != s.parameter.Base {
			return rotators.Permanent(fmt.Errorf("readers get version %d: %w", s.seen.version, rotation.ErrSuperseded))
		}
		out, err := s.client.PutParameter(ctx, put, func(o *ssm.Options) { o.Retryer = aws.NopRetryer{} })
		if err == nil {
			return s.promoted(ctx, out.Version, pending)
		}
		wait := rest
		if throttles < throttled && isThrottle(err) {
			throttles, try, wait = throttles+1, try-1, shortRest
		}
		if refused := s.explain(ctx, err); rotators.IsPermanent(refused) || isDenied(err) || try == promotions {
			return refused
		}
		if try == 1 {
			continue // most often only the reply was lost
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func isThrottle(err error) bool {
	var busy *types.TooManyUpdates
	return errors.As(err, &busy) || retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool()
}

// promoted notes what the store has now. A version past the next one means that
// somebody else wrote between the look and the write: what they stored is the
// version before, and readers no longer get it.
func (s *Store) promoted(ctx context.Context, version int64, value rotators.Secret) error {
	s.seen.version, s.seen.current = version, value
	switch next := s.parameter.Base + 1; {
	case version == next:
		return nil
	case version < next:
		return rotators.Permanent(errors.New("the parameter was deleted in the instant of promotion, which has made it anew, without its tags: delete it again, or put the tags back"))
	}
	between := strconv.FormatInt(version-1, 10)
	other, err := s.version(ctx, between)
	if err != nil || other.Equal(value) { // another run of this attempt wrote it
		return err
	}
	return fmt.Errorf("version %s was stored by hand in the instant of promotion, and version %d overwrote it: %w", between, version, rotation.ErrSuperseded)
}

// Discard implements rotation.Driven. It deletes this attempt's record, those that
// were stored before it and those of all bases that are past, in one call: what
// readers get is newer than any of them. Without a record of its own there is
// nothing that this attempt could know to be over.
func (s *Store) Discard(ctx context.Context, _ *rotation.Attempt) error {
	if !s.Begun() {
		return nil
	}
	records, err := s.list(ctx)
	if err != nil {
		return err
	}
	own := s.parameter.Record()
	at := slices.IndexFunc(records, func(r record) bool { return r.name == own })
	past := []string{own} // the list may not have it yet
	for i, r := range records {
		if r.name != own && (i < at || r.base < s.seen.version) {
			past = append(past, r.name)
		}
	}
	for names := range slices.Chunk(past, 10) { // the most DeleteParameters takes
		if _, err := s.client.DeleteParameters(ctx, &ssm.DeleteParametersInput{Names: names}); err != nil {
			return fmt.Errorf("deleting %s: %w", strings.Join(names, ", "), err)
		}
	}
	return nil
}

// Promoted implements rotation.Driven. It reads the versions since the base, of which
// there is one as a rule.
func (s *Store) Promoted(ctx context.Context, _ *rotation.Attempt) (string, error) {
	for v := s.seen.version - 1; v > max(s.parameter.Base, s.seen.version-versionsKept); v-- {
		name := strconv.FormatInt(v, 10)
		value, err := s.version(ctx, name)
		if err != nil {
			return "", err
		}
		if value.Equal(s.seen.pending) {
			return name, nil
		}
	}
	return "", nil
}

// Order implements rotation.Driven. Where there is no room for one more tag, the record of
// the retirement before makes some: the next retirement will write its own.
func (s *Store) Order(ctx context.Context, a *rotation.Attempt) error {
	err := s.tag(ctx, rotation.TagRetire, a.Tags.RetireOrder())
	var full *types.TooManyTagsError
	if s.tags[rotation.TagRetired] == "" || !errors.As(err, &full) {
		return err
	}
	if err := s.untag(ctx, rotation.TagRetired); err != nil {
		return err
	}
	return s.tag(ctx, rotation.TagRetire, a.Tags.RetireOrder())
}

// Retired implements rotation.Store. The record is written before the order is taken away: a
// crash in between retires once more, which does nothing. Only where there is no room for both
// tags the order goes first, and a crash in between leaves an older record.
func (s *Store) Retired(ctx context.Context, a *rotation.Attempt) error {
	err := s.tag(ctx, rotation.TagRetired, a.Tags.Retire)
	var full *types.TooManyTagsError
	if err != nil && !errors.As(err, &full) {
		return err
	}
	s.tags = nil // as they are now
	tags, tagsErr := s.Tags(ctx)
	if tagsErr != nil {
		return tagsErr
	}
	if order, _, _ := strings.Cut(tags[rotation.TagRetire], " "); order == a.Tags.Retire {
		if err := s.untag(ctx, rotation.TagRetire); err != nil {
			return err
		}
	}
	if err != nil {
		return s.tag(ctx, rotation.TagRetired, a.Tags.Retire)
	}
	return nil
}

func (s *Store) untag(ctx context.Context, key string) error {
	_, err := s.client.RemoveTagsFromResource(ctx, &ssm.RemoveTagsFromResourceInput{
		ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: &s.parameter.Name, TagKeys: []string{key},
	})
	if err != nil {
		return fmt.Errorf("removing the tag %s: %w", key, err)
	}
	delete(s.tags, key)
	return nil
}

func (s *Store) tag(ctx context.Context, key, value string) error {
	_, err := s.client.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{
		ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: &s.parameter.Name,
		Tags: []types.Tag{{Key: &key, Value: &value}},
	})
	if err != nil {
		return fmt.Errorf("writing the tag %s: %w", key, err)
	}
	if s.tags != nil {
		s.tags[key] = value
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
