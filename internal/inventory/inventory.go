// Package inventory finds the parameters that are tagged for rekey, and reads
// when each was changed last, for those who decide what is due: the planner, and
// the command rekey plan. It reads no value.
package inventory

import (
	"context"
	"errors"
	"fmt"
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

// Tagged finds the parameters that are tagged for this stage, a hundred a call.
// progress is told how many there are so far.
func Tagged(ctx context.Context, client *tagging.Client, stage string, progress func(int)) ([]Parameter, error) {
	var found []Parameter
	pages := tagging.NewGetResourcesPaginator(client, &tagging.GetResourcesInput{
		ResourceTypeFilters: []string{"ssm:parameter"},
		ResourcesPerPage:    aws.Int32(100),
		TagFilters:          []tagtypes.TagFilter{{Key: aws.String(rotation.TagPrefix + "rotator")}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("looking for parameters with the tag %srotator: %w", rotation.TagPrefix, err)
		}
		for _, resource := range page.ResourceTagMappingList {
			tags := map[string]string{}
			for _, tag := range resource.Tags {
				tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
			}
			// The index also yields what was tagged once, and is no more.
			if _, tagged := tags[rotation.TagPrefix+"rotator"]; !tagged || tags[rotation.TagPrefix+"stage"] != stage {
				continue
			}
			p := Parameter{
				ARN:     aws.ToString(resource.ResourceARN),
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
	pages := tagging.NewGetResourcesPaginator(client, &tagging.GetResourcesInput{
		ResourceTypeFilters: []string{"ssm:parameter", "secretsmanager:secret"},
		ResourcesPerPage:    aws.Int32(100),
		TagFilters:          []tagtypes.TagFilter{{Key: aws.String(rotation.TagRetire)}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("looking for the tag %s: %w", rotation.TagRetire, err)
		}
		for _, resource := range page.ResourceTagMappingList {
			tags := map[string]string{}
			for _, tag := range resource.Tags {
				tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
			}
			read, err := rotation.ReadTags(tags)
			if err != nil || read.Retire == "" || tags[rotation.TagPrefix+"stage"] != stage || tags[rotation.TagPrefix+"paused"] == "yes" {
				continue
			}
			found = append(found, Retirement{ARN: aws.ToString(resource.ResourceARN), Version: read.Retire, At: read.RetireAt})
		}
	}
	return found, nil
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

// Look reads the version and the last change of at most LookAtOnce parameters,
// without their values. It costs one call if all is well.
func Look(ctx context.Context, client *ssm.Client, parameters []*Parameter) error {
	err := lookUp(ctx, client, parameters)
	if !isDenied(err) {
		return err
	}
	// One that may not be read must not keep the others from being rotated.
	var denied []*Parameter
	for _, p := range parameters {
		one := lookUp(ctx, client, []*Parameter{p})
		if isDenied(one) {
			denied = append(denied, p)
		} else if one != nil {
			return one
		}
	}
	return lookAtDenied(ctx, client, denied, err)
}

// lookUp looks for parameters by their names, and for what is not found by a name with
// a slash before it.
func lookUp(ctx context.Context, client *ssm.Client, parameters []*Parameter) error {
	var names []string
	for _, p := range parameters {
		names = append(names, p.Name)
	}
	missing, err := look(ctx, client, parameters, names)
	if err != nil {
		return err
	}
	var slashed []string
	for _, name := range missing {
		if !strings.Contains(name, "/") {
			slashed = append(slashed, "/"+name)
		}
	}
	if len(slashed) > 0 {
		_, err = look(ctx, client, parameters, slashed)
	}
	return err
}

// lookAtDenied finds out why parameters may not be read. A policy that allows it by a
// tag denies what is not there, since that has none: a parameter that was deleted, and
// one whose name starts with a slash that its ARN does not tell.
func lookAtDenied(ctx context.Context, client *ssm.Client, parameters []*Parameter, denial error) error {
	var names []string
	for _, p := range parameters {
		if names = append(names, p.Name); !strings.Contains(p.Name, "/") {
			names = append(names, "/"+p.Name)
		}
	}
	if len(names) == 0 {
		return nil // the policy took effect meanwhile
	}
	described, err := paramstore.Describe(ctx, client, names)
	if err != nil {
		return err
	}
	for _, p := range parameters {
		i := slices.IndexFunc(described, func(d paramstore.Described) bool { return d.ARN == p.ARN })
		if i < 0 {
			continue // deleted; the index of tags is late
		}
		if name := described[i].Name; name != p.Name {
			p.Name = name
			if err := lookUp(ctx, client, []*Parameter{p}); !isDenied(err) {
				if err != nil {
					return err
				}
				continue
			}
		}
		p.Problem = errors.Join(p.Problem, rotators.Permanent(fmt.Errorf("it may not be read, which the policy of who looks must allow: %w", denial)))
	}
	return nil
}

func look(ctx context.Context, client *ssm.Client, parameters []*Parameter, names []string) (missing []string, err error) {
	out, err := client.GetParameters(ctx, &ssm.GetParametersInput{Names: names})
	if err != nil {
		return nil, fmt.Errorf("reading when parameters were changed: %w", err)
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
	return out.InvalidParameters, nil
}

func isDenied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException"
}
