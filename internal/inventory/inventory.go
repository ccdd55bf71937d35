// Package inventory finds the parameters that are tagged for rekey, and reads
// when each was changed last, for those who decide what is due: the planner, and
// the command rekey plan. It reads no value.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	tagging "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi"
	tagtypes "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/due"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// Parameter is a parameter that is tagged for rekey.
type Parameter struct {
	ARN, Name string
	Schedule  due.Schedule
	// Rotator, Every and Window are the tags of these names, as somebody wrote them.
	Rotator, Every, Window string
	// Problem is why it cannot be rotated; nil if nothing is known to be wrong.
	Problem error

	// What Look finds out. Version is 0 of a parameter that is not there: tags are
	// found by an index, which is late.
	Version int64
	Changed time.Time
}

// Due is when the parameter comes due.
func (p *Parameter) Due() time.Time { return p.Schedule.Due(p.ARN, p.Changed) }

// Overdue tells whether the parameter is older than its owner wants it to be.
func (p *Parameter) Overdue(now time.Time) bool {
	return now.After(p.Schedule.Deadline(p.Changed))
}

// resource is what the index of tags has about a secret or parameter.
type resource struct {
	arn  string
	tags map[string]string
}

// pages finds what has a tag, of some kinds of resources, a hundred a call: one page at a
// time.
func pages(ctx context.Context, client *tagging.Client, tag string, kinds ...string) iter.Seq2[[]resource, error] {
	return func(yield func([]resource, error) bool) {
		pages := tagging.NewGetResourcesPaginator(client, &tagging.GetResourcesInput{
			ResourceTypeFilters: kinds,
			ResourcesPerPage:    aws.Int32(100),
			TagFilters:          []tagtypes.TagFilter{{Key: &tag}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			var found []resource
			for _, r := range page.ResourceTagMappingList {
				tags := map[string]string{}
				for _, tag := range r.Tags {
					tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
				}
				found = append(found, resource{aws.ToString(r.ResourceARN), tags})
			}
			if !yield(found, nil) {
				return
			}
		}
	}
}

// Tagged finds the parameters that are tagged for this stage, a hundred a call.
// progress is told how many there are so far.
func Tagged(ctx context.Context, client *tagging.Client, stage string, progress func(int)) ([]Parameter, error) {
	var found []Parameter
	for page, err := range pages(ctx, client, rotation.TagPrefix+"rotator", "ssm:parameter") {
		if err != nil {
			return nil, fmt.Errorf("looking for parameters with the tag %srotator: %w", rotation.TagPrefix, err)
		}
		for _, r := range page {
			tags := r.tags
			// The index also yields what was tagged once, and is no more.
			if _, tagged := tags[rotation.TagPrefix+"rotator"]; !tagged || tags[rotation.TagPrefix+"stage"] != stage {
				continue
			}
			p := Parameter{
				ARN:     r.arn,
				Rotator: tags[rotation.TagPrefix+"rotator"],
				Every:   tags[rotation.TagPrefix+"every"],
				Window:  tags[rotation.TagPrefix+"window"],
			}
			p.Name = nameOf(p.ARN)
			p.Schedule, _, p.Problem = due.Read(tags)
			found = append(found, p)
		}
		progress(len(found))
	}
	return found, nil
}

// Retirement is the order to retire the old credential of a secret or parameter.
type Retirement struct {
	ARN, Version string
	At           time.Time // when its grace is over; zero: it is
}

// Retirements finds the secrets and parameters of this stage that have such an
// order, in their tag rekey:retire, and are not paused. Tags that cannot be read are left out: a
// parameter's are reported where Tagged finds them, a secret's by its next rotation.
func Retirements(ctx context.Context, client *tagging.Client, stage string) ([]Retirement, error) {
	var found []Retirement
	for page, err := range pages(ctx, client, rotation.TagRetire, "ssm:parameter", "secretsmanager:secret") {
		if err != nil {
			return nil, fmt.Errorf("looking for the tag %s: %w", rotation.TagRetire, err)
		}
		for _, r := range page {
			read, err := rotation.ReadTags(r.tags)
			if err != nil || read.Retire == "" || r.tags[rotation.TagPrefix+"stage"] != stage || r.tags[rotation.TagPrefix+"paused"] == "yes" {
				continue
			}
			found = append(found, Retirement{ARN: r.arn, Version: read.Retire, At: read.RetireAt})
		}
	}
	return found, nil
}

// Grace tells, of the tags alone, how long the older of two credentials stays valid;
// negative if the tags do not say that there are two. A rotator of somebody else's may have a
// grace that no tag says.
func Grace(s rotators.Settings) time.Duration {
	switch {
	case s.Strategy == "single-user":
		return -1
	case s.Grace < 0 && s.Rotator == "iam-key":
		return apikey.DefaultGrace
	}
	return due.Grace(s)
}

// TwoCredentials finds the secrets of this stage that have two live credentials after a
// rotation, as their tags say, and no order to retire the older one: most of them because it
// is retired, and some because Terraform took the order off.
func TwoCredentials(ctx context.Context, client *tagging.Client, stage string) ([]string, error) {
	var found []string
	for _, key := range []string{"strategy", "grace", "rotator"} {
		for page, err := range pages(ctx, client, rotation.TagPrefix+key, "secretsmanager:secret") {
			if err != nil {
				return nil, fmt.Errorf("looking for secrets with the tag %s%s: %w", rotation.TagPrefix, key, err)
			}
			for _, r := range page {
				read, err := rotation.ReadTags(r.tags)
				if err != nil || read.Retire != "" || read.Paused || r.tags[rotation.TagPrefix+"stage"] != stage || Grace(read.Settings) < 0 {
					continue
				}
				found = append(found, r.arn)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Parameter is the parameter that the order is for, for Look to find its name; nil
// if it is for a secret.
func (r Retirement) Parameter() *Parameter {
	if parsed, _ := arn.Parse(r.ARN); parsed.Service != "ssm" {
		return nil
	}
	return &Parameter{ARN: r.ARN, Name: nameOf(r.ARN)}
}

// nameOf is the name in a parameter's ARN. An ARN has one slash where a name in a
// path has two, so a name that is in no path may start with one or not: that is
// for look to find out.
func nameOf(id string) string {
	parsed, _ := arn.Parse(id)
	name := strings.TrimPrefix(parsed.Resource, "parameter/")
	if strings.Contains(name, "/") {
		return "/" + name
	}
	return name
}

// LookAtOnce is how many parameters one call of Look takes.
const LookAtOnce = 10

// Looker reads the version and the last change of parameters, without their values. It is
// for one goroutine.
type Looker struct {
	Client *ssm.Client
	// Reads and Writes are waited for before each call that counts as one of Parameter
	// Store's reads, and before each DescribeParameters.
	Reads, Writes paramstore.Limiter

	slashed bool // names that are in no path began with a slash, where any was found last
}

// Look reads at most LookAtOnce parameters. It costs one call if all is well. A name that
// is in no path may start with a slash or not, which an ARN does not tell: such names are
// looked for apart from the others, and first in the form in which any was found last.
func (l *Looker) Look(ctx context.Context, parameters []*Parameter) error {
	var certain, unsure []*Parameter
	for _, p := range parameters {
		if strings.Contains(strings.TrimPrefix(p.Name, "/"), "/") {
			certain = append(certain, p)
		} else {
			unsure = append(unsure, p)
		}
	}
	if err := l.lookAt(ctx, certain); err != nil {
		return err
	}
	left := unsure
	for range 2 {
		for _, p := range left {
			p.Name = strings.TrimPrefix(p.Name, "/")
			if l.slashed {
				p.Name = "/" + p.Name
			}
		}
		if err := l.read(ctx, left); err != nil && !isDenied(err) {
			return err
		}
		if left = slices.DeleteFunc(left, func(p *Parameter) bool { return p.Version != 0 }); len(left) == 0 {
			return nil
		}
		l.slashed = !l.slashed
	}
	for _, p := range left {
		p.Name = strings.TrimPrefix(p.Name, "/")
	}
	// A policy that allows reading by a tag denies a name that is not there, and with that
	// name the others of the same call.
	return l.lookAt(ctx, left)
}

// lookAt reads parameters. If they may not be read, it finds out which and why.
func (l *Looker) lookAt(ctx context.Context, parameters []*Parameter) error {
	denial := l.read(ctx, parameters)
	if !isDenied(denial) {
		return denial
	}
	var names []string
	for _, p := range parameters {
		if names = append(names, p.Name); !strings.Contains(strings.TrimPrefix(p.Name, "/"), "/") {
			names[len(names)-1] = strings.TrimPrefix(p.Name, "/")
			names = append(names, "/"+names[len(names)-1])
		}
	}
	if err := l.Writes.Wait(ctx); err != nil {
		return err
	}
	described, err := paramstore.Describe(ctx, l.Client, names)
	if err != nil {
		return err
	}
	var there []*Parameter // the others are deleted; the index of tags is late
	for _, p := range parameters {
		if i := slices.IndexFunc(described, func(d paramstore.Described) bool { return d.ARN == p.ARN }); i >= 0 {
			p.Name = described[i].Name
			there = append(there, p)
		}
	}
	if err := l.read(ctx, there); !isDenied(err) {
		return err
	}
	// One that may not be read must not keep the others from being rotated.
	for _, p := range there {
		one := l.read(ctx, []*Parameter{p})
		if isDenied(one) {
			p.Problem = errors.Join(p.Problem, rotators.Permanent(fmt.Errorf("it may not be read, which the policy of who looks must allow: %w", one)))
		} else if one != nil {
			return one
		}
	}
	return nil
}

// read looks for parameters by their names. It leaves those alone that are not there.
func (l *Looker) read(ctx context.Context, parameters []*Parameter) error {
	if len(parameters) == 0 {
		return nil
	}
	var names []string
	for _, p := range parameters {
		names = append(names, p.Name)
	}
	if err := l.Reads.Wait(ctx); err != nil {
		return err
	}
	return look(ctx, l.Client, parameters, names)
}

func look(ctx context.Context, client *ssm.Client, parameters []*Parameter, names []string) error {
	out, err := client.GetParameters(ctx, &ssm.GetParametersInput{Names: names})
	if err != nil {
		return fmt.Errorf("reading when parameters were changed: %w", err)
	}
	for _, found := range out.Parameters {
		i := slices.IndexFunc(parameters, func(p *Parameter) bool { return p.ARN == aws.ToString(found.ARN) })
		if i < 0 {
			continue
		}
		p := parameters[i]
		p.Name, p.Version, p.Changed = aws.ToString(found.Name), found.Version, aws.ToTime(found.LastModifiedDate)
		p.Problem = errors.Join(p.Problem, paramstore.Refuse(p.Name, found.Type))
	}
	return nil
}

func isDenied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException"
}
