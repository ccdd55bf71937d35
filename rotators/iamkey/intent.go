package iamkey

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

// An access key has no name, so nothing about it says who made it. The intent says so:
// a tag of the user, written before a key is minted and taken off when it is stored. A
// key was minted by rekey if the intent does not name it among those that were there
// before, if it was made in the few seconds in which rekey may have made it, and if
// nobody has used it, because the secret half of a stray is known to nobody.

// tagIntent is the user's tag. Its value: the token of the attempt, from when to when it
// may mint, and the ids of the keys there were before, with spaces between.
const tagIntent = "rekey:intent"

// maxMint is how long a mint may take: a longer time would have more keys of others in
// it. IAM answers within a second.
const maxMint = 5 * time.Second

// maxKeys is how many keys a user of IAM can have.
const maxKeys = 2

// blur is what a time of IAM's may be off by: it has no fractions, and clocks differ.
const blur = time.Second

type intent struct {
	token    string
	from, to time.Time
	before   []string
}

func (n intent) String() string {
	return strings.Join(append([]string{n.token, n.from.UTC().Format(time.RFC3339), n.to.UTC().Format(time.RFC3339)}, n.before...), " ")
}

// parseIntent reads the tag. What is not one is nobody's intent, so nothing is a stray
// by it.
func parseIntent(text string) (n intent, ok bool) {
	parts := strings.Fields(text)
	if len(parts) < 3 {
		return intent{}, false
	}
	from, err := time.Parse(time.RFC3339, parts[1])
	to, toErr := time.Parse(time.RFC3339, parts[2])
	return intent{token: parts[0], from: from, to: to, before: parts[3:]}, err == nil && toErr == nil
}

// minted tells whether a key was made while the intent held.
func (n intent) minted(k key) bool {
	return !slices.Contains(n.before, k.id) && !k.made.Before(n.from.Add(-blur)) && !k.made.After(n.to.Add(blur))
}

// Begin writes the intent.
func (i *issuer) Begin(ctx context.Context, token string) error {
	keys, err := i.keys(ctx)
	if err != nil {
		return err
	}
	// One that is there and that nobody recorded may be a stray whose intent IAM does
	// not show yet: another intent would take it out of rekey's hands for good.
	recorded, err := i.recorded(ctx)
	if err != nil {
		return err
	}
	if len(keys) >= maxKeys && slices.ContainsFunc(keys, func(k key) bool { return !slices.Contains(recorded, k.id) }) {
		return i.full(ctx, fmt.Errorf("there are %d keys", len(keys)))
	}
	from := i.clock.Time().Truncate(time.Second)
	n := intent{token: token, from: from, to: from.Add(maxMint)}
	for _, k := range keys {
		n.before = append(n.before, k.id)
	}
	client, err := i.iam(ctx)
	if err != nil {
		return err
	}
	_, err = client.TagUser(ctx, &iam.TagUserInput{UserName: &i.user.name, Tags: []types.Tag{{Key: aws.String(tagIntent), Value: aws.String(n.String())}}})
	if err != nil {
		return i.explain("TagUser", err)
	}
	return nil
}

// Done takes the intent off, if it is the one of this token.
func (i *issuer) Done(ctx context.Context, token string) error {
	n, ok, err := i.intent(ctx)
	if err != nil || !ok || n.token != token {
		return err
	}
	if _, err := i.client.UntagUser(ctx, &iam.UntagUserInput{UserName: &i.user.name, TagKeys: []string{tagIntent}}); err != nil {
		return i.explain("UntagUser", err)
	}
	return nil
}

// Strays returns the keys that were minted by the intent there is.
func (i *issuer) Strays(ctx context.Context, keep ...string) ([]string, error) {
	n, ok, err := i.intent(ctx)
	if err != nil || !ok {
		return nil, err
	}
	keys, err := i.keys(ctx)
	if err != nil {
		return nil, err
	}
	// IAM may not list yet what was minted a moment ago. As many as there can be leave
	// none to be hidden.
	if late := n.to.Add(settling).Sub(i.clock.Time()); late > 0 && len(keys) < maxKeys {
		if err := i.clock.Wait(ctx, late); err != nil {
			return nil, fmt.Errorf("waiting until IAM lists what an earlier run may have minted: %w", err)
		}
		if keys, err = i.keys(ctx); err != nil {
			return nil, err
		}
	}
	var strays []string
	for _, k := range keys {
		if slices.Contains(keep, k.id) || !n.minted(k) {
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

// intent reads the user's tag.
func (i *issuer) intent(ctx context.Context) (n intent, ok bool, err error) {
	client, err := i.iam(ctx)
	if err != nil {
		return intent{}, false, err
	}
	pages := iam.NewListUserTagsPaginator(client, &iam.ListUserTagsInput{UserName: &i.user.name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return intent{}, false, i.explain("ListUserTags", err)
		}
		for _, tag := range page.Tags {
			if aws.ToString(tag.Key) == tagIntent {
				n, ok = parseIntent(aws.ToString(tag.Value))
				return n, ok, nil
			}
		}
	}
	return intent{}, false, nil
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
