package iamkey

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// An access key has no name, so nothing about it says who made it. The intent says so:
// a tag of the user, written before a key is minted. A key was minted by rekey if the
// intent does not name it among those that were there before, if it was made in the few
// seconds in which rekey may have made it, and if nobody has used it, because the secret
// half of a stray is known to nobody.
//
// An intent ends with the call that it was written for. The tag is taken off as soon as IAM
// has refused the call, when the key is stored, and when the key is revoked. An intent
// that is left belongs to a call without an answer, and proves nothing after an hour.

// tagIntent begins the key of the user's tag. What follows is different each time, so
// that no intent is written over while IAM does not show it yet. The value: the name that
// the key would have, from when to when it may be minted, and the ids of the keys there
// were before, with spaces between.
const tagIntent = "rekey:intent:"

// maxMint is how long a mint may take: a longer time would have more keys of others in
// it. IAM answers within a second.
const maxMint = 5 * time.Second

// minMint is how much of that must be left.
const minMint = time.Second

// maxKeys is how many keys a user of IAM can have.
const maxKeys = 2

// blur is what a time of IAM's may be off by: it has no fractions, and clocks differ.
const blur = time.Second

type intent struct {
	key      string // of the tag
	name     string // of the key; see apikey.Name
	from, to time.Time
	before   []string
}

func (n intent) String() string {
	return strings.Join(append([]string{n.name, n.from.UTC().Format(time.RFC3339), n.to.UTC().Format(time.RFC3339)}, n.before...), " ")
}

// parseIntent reads the tag. A tag that Begin and letGo do not write becomes an intent
// without times, which is spent and proves nothing: whoever may tag the user could else
// claim any key of the user's by a window of years.
func parseIntent(key, text string) intent {
	n := intent{key: key}
	parts := strings.Fields(text)
	if len(parts) < 3 {
		return n
	}
	from, err := time.Parse(time.RFC3339, parts[1])
	to, toErr := time.Parse(time.RFC3339, parts[2])
	if err != nil || toErr != nil || to.Sub(from) != maxMint || apikey.Over(parts[0]).After(to.Add(apikey.LongestRun)) {
		return n
	}
	return intent{key: key, name: parts[0], from: from, to: to, before: parts[3:]}
}

// proves is for how long after its window an intent proves anything. A run is over after 15
// minutes at the most, and IAM lists a key within seconds, so a retry within the hour
// removes the key. After the hour the rotation stops and names the key: that nobody's key
// is revoked counts for more than a rotation that needs no person.
const proves = time.Hour

// ahead is by how much the clock of another run may be fast.
const ahead = time.Minute

// spent tells whether an intent proves nothing any more. One of the future never did.
func (n intent) spent(now time.Time) bool { return now.Sub(n.to) > proves || n.from.Sub(now) > ahead }

// minted tells whether a key was made while the intent held.
func (n intent) minted(k key) bool {
	return !slices.Contains(n.before, k.id) && !k.made.Before(n.from.Add(-blur)) && !k.made.After(n.to.Add(blur))
}

// Begin writes an intent, and takes off those that are spent.
func (i *issuer) Begin(ctx context.Context, name string) error {
	keys, err := i.keys(ctx)
	if err != nil {
		return err
	}
	if len(keys) >= maxKeys {
		// One that nobody recorded may be a stray whose intent IAM does not show yet.
		if others, err := i.others(ctx, keys); err != nil {
			return err
		} else if len(others) > 0 {
			return i.noRoom(others)
		}
	}
	if err := i.forget(ctx, func(n intent) bool { return n.spent(i.clock.Time()) }); err != nil {
		return err
	}
	now := i.clock.Time()
	n := intent{key: tagIntent + strconv.FormatInt(now.UnixMilli(), 10), name: name, from: now.Truncate(time.Second)}
	n.to = n.from.Add(maxMint)
	for _, k := range keys {
		n.before = append(n.before, k.id)
	}
	i.intent = n
	out, err := i.write(ctx, n)
	if code(err) == "LimitExceeded" {
		return rotators.Permanent(fmt.Errorf("the user %q has as many tags as IAM allows, and rekey needs one more while it rotates: take one off: %w", i.user.name, err))
	}
	if err != nil {
		if !refusal(err) {
			i.takeBack(ctx)
		}
		return i.explain("TagUser", err)
	}
	// IAM's answer is of a whole second, and half of one later on average.
	if off, ok := middleware.GetAttemptSkew(out.ResultMetadata); ok && (off+time.Second/2).Abs() > blur+time.Second/2 {
		i.takeBack(ctx)
		return fmt.Errorf("the clock here and IAM's differ by %v, so no key is made: its time would not tell whose it is; set this clock right", off.Round(time.Second))
	}
	return nil
}

func (i *issuer) write(ctx context.Context, n intent) (*iam.TagUserOutput, error) {
	return i.client.TagUser(ctx, &iam.TagUserInput{UserName: &i.user.name, Tags: []types.Tag{{Key: &n.key, Value: aws.String(n.String())}}})
}

// takeBack takes off the intent that Begin wrote, because no key was made by it. If IAM
// refuses that, takeBack overwrites the tag with a void one. The caller reports why no key was
// made; a failure here is only logged, because the intent ends after an hour by itself.
// The context may be the reason why no key was made, so takeBack has its own time.
func (i *issuer) takeBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxMint)
	defer cancel()
	_, err := i.client.UntagUser(ctx, &iam.UntagUserInput{UserName: &i.user.name, TagKeys: []string{i.intent.key}})
	if err == nil {
		return
	}
	if _, voidErr := i.write(ctx, intent{key: i.intent.key}); voidErr != nil {
		slog.WarnContext(ctx, "no key was made, and the intent could not be taken off (iam:UntagUser and iam:TagUser failed); for an hour a key made by hand in the same seconds may be taken for rekey's", "user", i.user.arn, "tag", i.intent.key)
	}
}

// letGo rewrites the intent: this run will not store the key that it may have made, so the
// next run need not wait for the end of this one.
func (i *issuer) letGo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxMint)
	defer cancel()
	n := i.intent
	n.name = apikey.Name(i.r.ID, i.r.Token, i.clock.Time())
	if _, err := i.write(ctx, n); err != nil {
		slog.WarnContext(ctx, "whether a key was made is not known, and the intent could not be rewritten (iam:TagUser failed); the next try may have to wait until the time of this run is over", "user", i.user.arn)
	}
}

// Done takes off the intents of this attempt and those that are spent.
func (i *issuer) Done(ctx context.Context, name string) error {
	return i.forget(ctx, func(n intent) bool {
		return apikey.SameAttempt(n.name, name) || n.spent(i.clock.Time())
	})
}

// forget takes the intents off for which over is true.
func (i *issuer) forget(ctx context.Context, over func(intent) bool) error {
	all, err := i.intents(ctx)
	if err != nil {
		return err
	}
	var keys []string
	for _, n := range all {
		if over(n) {
			keys = append(keys, n.key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if _, err := i.client.UntagUser(ctx, &iam.UntagUserInput{UserName: &i.user.name, TagKeys: keys}); err != nil {
		return i.explain("UntagUser", err)
	}
	return nil
}

// Strays returns the keys that were minted by the intents there are. One that IAM does
// not list yet takes a place all the same: then there is none to mint another, and the
// next try finds it.
func (i *issuer) Strays(ctx context.Context, keep ...string) ([]apikey.Stray, error) {
	intents, err := i.intents(ctx)
	intents = slices.DeleteFunc(intents, func(n intent) bool { return n.spent(i.clock.Time()) })
	if err != nil || len(intents) == 0 {
		return nil, err
	}
	keys, err := i.keys(ctx)
	if err != nil {
		return nil, err
	}
	var strays []apikey.Stray
	for _, k := range keys {
		by := slices.DeleteFunc(slices.Clone(intents), func(n intent) bool { return !n.minted(k) })
		if len(by) == 0 || slices.Contains(keep, k.id) {
			continue
		}
		switch used, err := i.lastUsed(ctx, i.client, k.id); {
		case err != nil:
			return nil, err
		case !used.IsZero():
			slog.WarnContext(ctx, "a key was made when rekey was about to make one, and is left alone because somebody uses it", "user", i.user.arn, "key", k.id)
		default:
			for _, n := range by {
				strays = append(strays, apikey.Stray{ID: k.id, Name: n.name})
			}
		}
	}
	return strays, nil
}

// intents reads the user's tags.
func (i *issuer) intents(ctx context.Context) (all []intent, err error) {
	client, err := i.iam(ctx)
	if err != nil {
		return nil, err
	}
	pages := iam.NewListUserTagsPaginator(client, &iam.ListUserTagsInput{UserName: &i.user.name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, i.explain("ListUserTags", err)
		}
		for _, tag := range page.Tags {
			if key := aws.ToString(tag.Key); strings.HasPrefix(key, tagIntent) {
				all = append(all, parseIntent(key, aws.ToString(tag.Value)))
			}
		}
	}
	return all, nil
}

// key is what IAM tells about a key.
type key struct {
	id, status string
	made       time.Time
}

// in tells whether a value holds the key.
func (k key) in(v rotators.Secret) bool { return apikey.Mentions(v, k.id) }

func (i *issuer) keys(ctx context.Context) ([]key, error) {
	client, err := i.iam(ctx)
	if err != nil {
		return nil, err
	}
	var keys []key
	pages := iam.NewListAccessKeysPaginator(client, &iam.ListAccessKeysInput{UserName: &i.user.name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, i.explain("ListAccessKeys", err)
		}
		for _, k := range page.AccessKeyMetadata {
			keys = append(keys, key{aws.ToString(k.AccessKeyId), string(k.Status), aws.ToTime(k.CreateDate)})
		}
	}
	return keys, nil
}

// State looks the key up in IAM's list. Before rekey tries an active key, which would count
// as its last use, State asks for the last use.
func (i *issuer) State(ctx context.Context, id string) (apikey.State, error) {
	keys, err := i.keys(ctx)
	if err != nil {
		return apikey.Untold, err
	}
	at := slices.IndexFunc(keys, func(k key) bool { return k.id == id })
	switch {
	case at < 0:
		return apikey.Untold, nil
	case keys[at].status != string(types.StatusTypeActive):
		return apikey.Disabled, nil
	}
	if _, known := i.uses[id]; !known {
		if i.uses == nil {
			i.uses = map[string]use{}
		}
		i.uses[id] = i.lastUse(ctx, id)
	}
	return apikey.Active, nil
}

// use is what IAM says about the last use of a key.
type use struct {
	last time.Time // zero: never
	err  error
}

func (i *issuer) lastUse(ctx context.Context, id string) use {
	last, err := i.lastUsed(ctx, i.client, id)
	return use{last, err}
}

// lastUsed tells when a key was used last; zero: never. IAM may be hours late to know.
func (i *issuer) lastUsed(ctx context.Context, client *iam.Client, id string) (time.Time, error) {
	out, err := client.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	if err != nil {
		// IAM says AccessDenied of a key that is gone, too, so this is never permanent.
		return time.Time{}, fmt.Errorf("iam:GetAccessKeyLastUsed for the key %s: %w", id, err)
	}
	if out.AccessKeyLastUsed == nil {
		return time.Time{}, nil
	}
	return aws.ToTime(out.AccessKeyLastUsed.LastUsedDate), nil
}

// logLastUse logs when a key that is about to be revoked was used last, before rekey tried
// it. That the last use is not known is no reason to keep the key.
func (i *issuer) logLastUse(ctx context.Context, id string) {
	used, known := i.uses[id]
	if !known {
		used = i.lastUse(ctx, id)
	}
	switch {
	case used.err != nil:
		// The line leaves out the error, which holds what a server answered.
		slog.InfoContext(ctx, "revoking a key; iam:GetAccessKeyLastUsed failed, so when the key was used last is not known", "user", i.user.arn, "key", id)
	case used.last.IsZero():
		slog.InfoContext(ctx, "revoking a key; nobody is known to have used it", "user", i.user.arn, "key", id)
	default:
		slog.InfoContext(ctx, "revoking a key", "user", i.user.arn, "key", id, "last used", used.last.UTC().Format(time.RFC3339))
	}
}
