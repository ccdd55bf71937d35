package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/paramstore"
)

// rotation is one that was ordered and runs elsewhere.
type rotation interface {
	// look says how far it is and whether it is done. An error is the end of it
	// too: there is nothing more to wait for.
	look(context.Context) (how string, done bool, err error)
	// where says where to read why it takes so long.
	where() string
}

var errTimeout = errors.New("timeout")

// follow looks at a rotation until it is over, and says each time it got further.
func (o *order) follow(ctx context.Context, r rotation) error {
	limited, cancel := context.WithTimeoutCause(ctx, o.timeout, errTimeout)
	defer cancel()
	ticker := time.NewTicker(o.pause)
	defer ticker.Stop()
	for said := ""; ; {
		how, done, err := r.look(limited)
		switch {
		case done:
			fmt.Fprintf(o.stdout, "done: %s\n", how)
			return nil
		case ctx.Err() != nil:
			return errors.New("not waited for its end; the rotation goes on")
		case context.Cause(limited) == errTimeout:
			return fmt.Errorf("not done after %v (%s): %s", o.timeout, cmp.Or(said, "ordered"), r.where())
		case err != nil:
			return err
		case how != said:
			said = how
			fmt.Fprintln(o.stderr, how)
		}
		select {
		case <-ticker.C:
		case <-limited.Done():
		}
	}
}

// secretRotation is one of Secrets Manager's.
type secretRotation struct {
	client *secretsmanager.Client
	secret *secretsmanager.DescribeSecretOutput // as it was before
	token  string
	lost   int // looks in a row that showed no label on the version
}

// settles is after how many looks Secrets Manager surely shows what it did before
// the first: it is eventually consistent.
const settles = 8

func (r *secretRotation) look(ctx context.Context) (how string, done bool, err error) {
	out, err := r.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: r.secret.ARN})
	if err != nil {
		return "", false, fmt.Errorf("the rotation goes on, and cannot be followed: %w", err)
	}
	labels := out.VersionIdsToStages[r.token]
	name := aws.ToString(r.secret.Name)
	switch {
	case slices.Contains(labels, "AWSCURRENT"):
		return fmt.Sprintf("version %s of %s is current", r.token, name), true, nil
	case slices.Contains(labels, "AWSPREVIOUS"):
		return fmt.Sprintf("version %s of %s was current, and another one was stored since", r.token, name), true, nil
	case out.DeletedDate != nil:
		return "", false, fmt.Errorf("the secret %s is being deleted: restore it with restore-secret, or leave it", name)
	case !aws.ToBool(out.RotationEnabled):
		return "", false, fmt.Errorf("the rotation of %s was canceled: before the next one, take AWSPENDING off version %s with update-secret-version-stage", name, r.token)
	case slices.Contains(labels, "AWSPENDING"):
		r.lost = 0
		return fmt.Sprintf("version %s is pending", r.token), false, nil
	}
	if r.lost++; r.lost < settles {
		return "ordered", false, nil
	}
	return "", false, fmt.Errorf("the rotation of %s was abandoned by Secrets Manager: somebody stored another version meanwhile, or took AWSPENDING off version %s; order it again if that was not what you wanted", name, r.token)
}

func (r *secretRotation) where() string {
	function := aws.ToString(r.secret.RotationLambdaARN)
	if function == "" {
		return "another service rotates this secret: look there"
	}
	return "Secrets Manager tries again while the secret's window is open; read why it fails in the log of " + function
}

// parameterRotation is one of parameter-rotator's.
type parameterRotation struct {
	client    *ssm.Client
	parameter paramstore.Parameter // as it was ordered
	// Who stored the record and who the next version, once they were seen. Without
	// decryption this is what tells a version of rekey's from one stored by hand.
	worker, next string
}

func (r *parameterRotation) look(ctx context.Context) (how string, done bool, err error) {
	p := r.parameter
	out, err := r.client.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{p.Name, p.Record()}})
	if err != nil {
		return "", false, fmt.Errorf("the rotation goes on, and cannot be followed: %w", err)
	}
	version, record := int64(0), false
	for _, found := range out.Parameters {
		if aws.ToString(found.Name) == p.Record() {
			record = true
		} else {
			version = found.Version
		}
	}
	if record && r.worker == "" {
		if r.worker, err = r.storedBy(ctx, p.Record()); err != nil {
			return "", false, err
		}
	}
	if version > p.Base && r.next == "" {
		if r.next, err = r.storedBy(ctx, p.Name); err != nil {
			return "", false, err
		}
	}
	switch {
	case version == 0 && record:
		err = fmt.Errorf("%s was deleted while it was being rotated: the target may accept nothing but what %s holds; read it there if it is still needed, and delete that", p.Name, p.Record())
	case version == 0:
		err = fmt.Errorf("%s was deleted", p.Name)
	case version == p.Base && !record:
		how = "ordered"
	case version == p.Base:
		how = "a value is pending in " + p.Record()
	case version > p.Base+1:
		err = fmt.Errorf("version %d of %s is current, and it was to be %d: somebody changed the parameter meanwhile; the log of parameter-rotator says what became of the order, and get-parameter-history who stored what", version, p.Name, p.Base+1)
	case r.worker == "" && strings.Contains(r.next, parameterRotator):
		// Too quick for the record to be seen. Lambda names a function's session
		// after the function.
		how, done = fmt.Sprintf("version %d of %s is current", version, p.Name), !record
	case r.worker == "":
		err = fmt.Errorf("version %d of %s is current, and %s stored it: if that is the function that takes orders, the rotation is done and was too quick to be seen; if not, the parameter was changed first, and the order comes to nothing", version, p.Name, r.next)
	case r.next != r.worker:
		err = fmt.Errorf("version %d of %s is current, and %s stored it while %s was rotating it; the log of parameter-rotator says what became of the order", version, p.Name, r.next, r.worker)
	case record:
		how = fmt.Sprintf("version %d is current, and is being cleared up after", version)
	default:
		how, done = fmt.Sprintf("version %d of %s is current", version, p.Name), true
	}
	return how, done, err
}

// storedBy returns the ARN of who stored the latest version of a parameter; "" if
// it is not there.
func (r *parameterRotation) storedBy(ctx context.Context, name string) (string, error) {
	pages := ssm.NewDescribeParametersPaginator(r.client, &ssm.DescribeParametersInput{
		ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Option: aws.String("Equals"), Values: []string{name}}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", fmt.Errorf("the rotation goes on, and cannot be followed: %w", err)
		}
		for _, found := range page.Parameters {
			return aws.ToString(found.LastModifiedUser), nil
		}
	}
	return "", nil
}

func (r *parameterRotation) where() string {
	return "read why in the log of parameter-rotator, and look for the order in the dead-letter queue"
}
