// Package paramstore keeps an attempt's versions in Parameter Store. It is one
// of the engine's two stores; see rotation.Store for the contract.
//
// Parameter Store has no staging labels: whoever reads a parameter gets its
// latest version. And its only conditional write is "create, if the name is
// free". So the pending value is kept in a parameter of its own, the record,
// /rekey/pending/<hash of the ARN>/<base version>. The record is created, never
// overwritten: it is write-ahead log and lock at once. To promote is to write the
// record's value to the parameter, and then to delete the record.
//
// The base version is the one readers got when the rotation was ordered. The
// attempt's token is made of it and of the ARN, so that whoever takes the order,
// and however often, makes the same attempt.
package paramstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/rotators"
)

// Parameter says which parameter is rotated, and from which version on. It is all that
// a message of the queue holds of a parameter, so whoever can write a message chooses
// nothing else. The rest is read from Parameter Store by the store that rotates it.
type Parameter struct {
	ARN  string `json:"arn"`
	Name string `json:"name"`
	Base int64  `json:"base"` // the version that applications read when the rotation was ordered
}

// nameForm is the form of every name that a parameter can have. It leaves no room for the
// version or label that a selector has after a colon, nor for an ARN.
var nameForm = regexp.MustCompile(`^([A-Za-z0-9_.-]+|(/[A-Za-z0-9_.-]+)+)$`)

// IsName reports whether text can be the name of a parameter.
func IsName(text string) bool { return nameForm.MatchString(text) }

// Check returns an error unless ARN is the ARN of the parameter called Name and the name
// can be that of a parameter to rotate. The error is permanent. Check asks nobody, so it
// does not know whether there is such a parameter.
func (p Parameter) Check() error {
	id, err := arn.Parse(p.ARN)
	switch {
	case !IsName(p.Name):
		return rotators.Permanent(fmt.Errorf("%q is not the name of a parameter: write the name alone, without a version, a label or an ARN", p.Name))
	case err != nil || id.Service != "ssm" || id.Resource != "parameter/"+strings.TrimPrefix(p.Name, "/"):
		return rotators.Permanent(fmt.Errorf("%q is not the ARN of the parameter %s", p.ARN, p.Name))
	}
	if err := Refuse(p.Name, types.ParameterTypeSecureString); err != nil {
		return rotators.Permanent(fmt.Errorf("%s is not a parameter to rotate: %w", p.Name, err))
	}
	return nil
}

// Token identifies the attempt to rotate this version of the parameter: 64
// characters, like any other version id.
func (p Parameter) Token() string {
	return hash(p.ARN + "\x00" + strconv.FormatInt(p.Base, 10))
}

// Group is one and the same for all attempts to rotate the parameter, and has no
// characters that a queue would refuse.
func (p Parameter) Group() string { return hash(p.ARN) }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// records is the path under which the parameter's records are.
func (p Parameter) records() string { return pending + p.Group() + "/" }

// pending is the path under which all records are.
const pending = "/rekey/pending/"

// Record is the name of the parameter that holds the attempt's pending value.
func (p Parameter) Record() string { return p.records() + strconv.FormatInt(p.Base, 10) }

// Begun finds the names of all records, ten a call, of whatever parameter: the
// attempts that are not finished, one way or another. It reads no value. reads is
// waited for before every call.
func Begun(ctx context.Context, client *ssm.Client, reads Limiter) (map[string]bool, error) {
	records := map[string]bool{}
	pages := ssm.NewGetParametersByPathPaginator(client, &ssm.GetParametersByPathInput{Path: aws.String(pending), Recursive: aws.Bool(true)})
	for pages.HasMorePages() {
		if err := reads.Wait(ctx); err != nil {
			return nil, err
		}
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("looking for what was begun, under %s: %w", pending, err)
		}
		for _, p := range page.Parameters {
			records[aws.ToString(p.Name)] = true
		}
	}
	return records, nil
}

// Described is a parameter as DescribeParameters has it. All of it but the ARN and the
// name can change with the version only, so it holds as long as the version is Base.
type Described struct {
	Parameter
	KeyID, Tier, DataType       string
	Description, AllowedPattern string
	Refused                     error // why it is not rekey's to rotate; nil if it is
}

// DescribeAtOnce is how many parameters one call describes.
const DescribeAtOnce = 50

// Describe reads what is to be known of at most DescribeAtOnce parameters, by
// name. A name that is not there is left out.
func Describe(ctx context.Context, client *ssm.Client, names []string) ([]Described, error) {
	return describe(ctx, client, names, func(context.Context) error { return nil })
}

// describe is Describe. wait is called before every call: AWS may answer with a page that
// is empty, and the next page is one more call.
func describe(ctx context.Context, client *ssm.Client, names []string, wait func(context.Context) error) ([]Described, error) {
	var all []Described
	pages := ssm.NewDescribeParametersPaginator(client, &ssm.DescribeParametersInput{
		MaxResults:       aws.Int32(DescribeAtOnce),
		ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Option: aws.String("Equals"), Values: names}},
	})
	for pages.HasMorePages() {
		if err := wait(ctx); err != nil {
			return nil, err
		}
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("describing parameters: %w", err)
		}
		for _, m := range page.Parameters {
			all = append(all, Described{
				Parameter: Parameter{ARN: aws.ToString(m.ARN), Name: aws.ToString(m.Name), Base: m.Version},
				KeyID:     aws.ToString(m.KeyId), Tier: string(m.Tier), DataType: aws.ToString(m.DataType),
				Description: aws.ToString(m.Description), AllowedPattern: aws.ToString(m.AllowedPattern),
				Refused: refuse(m),
			})
		}
	}
	return all, nil
}

// Refuse says why a parameter of that name and type is not rekey's to rotate; nil
// if it is. The error is permanent.
func Refuse(name string, t types.ParameterType) error {
	var err error
	switch {
	case strings.HasPrefix(name, "/aws/reference/"):
		err = errors.New("it is only a way to read a secret of Secrets Manager: rotate that secret there")
	case strings.HasPrefix(name, pending):
		err = errors.New("it is the pending value of a rotation of rekey's: take its tags off")
	case t != types.ParameterTypeSecureString:
		err = fmt.Errorf("its type is %s, which keeps a value unencrypted and in sight of whoever may list parameters, and a type cannot be changed: delete it, make it anew as a SecureString, and have rekey rotate that", t)
	}
	return rotators.Permanent(err)
}

// refuse does it with all that DescribeParameters tells.
func refuse(m types.ParameterMetadata) error {
	for _, policy := range m.Policies {
		if aws.ToString(policy.PolicyType) == "Expiration" {
			return rotators.Permanent(errors.New("it has an Expiration policy, which deletes it at a fixed time whether it was rotated or not: remove the policy with put-parameter --policies '[{}]'"))
		}
	}
	return Refuse(aws.ToString(m.Name), m.Type)
}
