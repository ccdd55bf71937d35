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
)

// An access key has no name, so nothing about it says who made it. The intent says so:
// a tag of the user, written before a key is minted and taken off when it is stored. A
// key was minted by rekey if the intent does not name it among those that were there
// before, if it was made in the few seconds in which rekey may have made it, and if
// nobody has used it, because the secret half of a stray is known to nobody.

// tagIntent begins the key of the user's tag. What follows is different each time, so
// that no intent is written over while IAM does not show it yet. The value: the token of
// the attempt, from when to when it may mint, and the ids of the keys there were before,
// with spaces between.
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
	token    string
	from, to time.Time
	before   []string
}

func (n intent) String() string {
	return strings.Join(append([]string{n.token, n.from.UTC().Format(time.RFC3339), n.to.UTC().Format(time.RFC3339)}, n.before...), " ")
}

// parseIntent reads the tag. What is not one is nobody's intent, so nothing is a stray
// by it.
func parseIntent(key, text string) (n intent, ok bool) {
	parts := strings.Fields(text)
	if len(parts) < 3 {
		return intent{}, false
	}
	from, err := time.Parse(time.RFC3339, parts[1])
	to, toErr := time.Parse(time.RFC3339, parts[2])
	return intent{key: key, token: parts[0], from: from, to: to, before: parts[3:]}, err == nil && toErr == nil
}

// spent tells whether IAM lists by now what the intent was for, however late it is.
func (n intent) spent(now time.Time) bool { return now.Sub(n.to) > 15*time.Minute }

// minted tells whether a key was made while the intent held.
func (n intent) minted(k key) bool {
	return !slices.Contains(n.before, k.id) && !k.made.Before(n.from.Add(-blur)) && !k.made.After(n.to.Add(blur))
}

// Begin writes an intent, and takes off those that are spent: Strays has looked by them.
func (i *issuer) Begin(ctx context.Context, token string) error {
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
	n := intent{key: tagIntent + strconv.FormatInt(now.UnixMilli(), 10), token: token, from: now.Truncate(time.Second)}
	n.to = n.from.Add(maxMint)
	for _, k := range keys {
		n.before = append(n.before, k.id)
	}
	out, err := i.client.TagUser(ctx, &iam.TagUserInput{UserName: &i.user.name, Tags: []types.Tag{{Key: &n.key, Value: aws.String(n.String())}}})
	if code(err) == "LimitExceeded" {
		return rotators.Permanent(fmt.Errorf("the user %q has as many tags as IAM allows, and rekey needs one more while it rotates: take one off: %w", i.user.name, err))
	}
	if err != nil {
		return i.explain("TagUser", err)
	}
	// IAM's answer is of a whole second, and half of one later on average.
	if off, ok := middleware.GetAttemptSkew(out.ResultMetadata); ok && (off+time.Second/2).Abs() > blur+time.Second/2 {
		return fmt.Errorf("the clock here and IAM's differ by %v, so no key is made: its time would not tell whose it is; set this clock right", off.Round(time.Second))
	}
	i.until = n.to
	return nil
}

// Done takes off the intents of this token and those that are spent.
func (i *issuer) Done(ctx context.Context, token string) error {
	return i.forget(ctx, func(n intent) bool { return n.token == token || n.spent(i.clock.Time()) })
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
func (i *issuer) Strays(ctx context.Context, keep ...string) ([]string, error) {
	intents, err := i.intents(ctx)
	if err != nil || len(intents) == 0 {
		return nil, err
	}
	keys, err := i.keys(ctx)
	if err != nil {
		return nil, err
	}
	var strays []string
	for _, k := range keys {
		if slices.Contains(keep, k.id) || !slices.ContainsFunc(intents, func(n intent) bool { return n.minted(k) }) {
			continue
		}
		switch used, err := i.lastUsed(ctx, i.client, k.id); {
		case err != nil:
			return nil, err
		case !used.IsZero():
			slog.WarnContext(ctx, "a key was made when rekey was about to make one, and is left alone because somebody uses it", "user", i.user.arn, "key", k.id)
		default:
			strays = append(strays, k.id)
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
			if n, ok := parseIntent(aws.ToString(tag.Key), aws.ToString(tag.Value)); ok && strings.HasPrefix(n.key, tagIntent) {
				all = append(all, n)
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

// logLastUse logs when a key that is about to be revoked was used last. That it cannot
// be told is no reason to keep the key.
func (i *issuer) logLastUse(ctx context.Context, client *iam.Client, id string) {
	used, err := i.lastUsed(ctx, client, id)
	switch {
	case err != nil:
		slog.InfoContext(ctx, "revoking a key; when it was used last is not known", "user", i.user.arn, "key", id, "error", err.Error())
	case used.IsZero():
		slog.InfoContext(ctx, "revoking a key; nobody is known to have used it", "user", i.user.arn, "key", id)
	default:
		slog.InfoContext(ctx, "revoking a key", "user", i.user.arn, "key", id, "last used", used.UTC().Format(time.RFC3339))
	}
}
