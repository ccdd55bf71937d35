package postgres

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"

	"github.com/rekeyhq/rekey/rotators"
)

// iamToken signs a token that lets an IAM user of RDS in, for 15 minutes, at one
// host and port. RDS compares the host with its endpoint's own name, so a CNAME
// will not do. No real RDS was asked: tests look at the token only.
func iamToken(ctx context.Context, cfg aws.Config, host string, port int, user string) (rotators.Secret, error) {
	region := regionOf(host)
	if region == "" {
		region = cfg.Region
	}
	if region == "" || cfg.Credentials == nil {
		return rotators.Secret{}, rotators.Permanent(errors.New("there is no AWS region, or there are no AWS credentials, to sign with: set AWS_REGION, and run as a role"))
	}
	token, err := auth.BuildAuthToken(ctx, net.JoinHostPort(host, strconv.Itoa(port)), region, user, cfg.Credentials)
	return rotators.NewSecret(token), err
}

// regionOf reads the region in the name of an endpoint of RDS, such as
// shop.c1a2b3.eu-west-1.rds.amazonaws.com; "" for other hosts.
func regionOf(host string) string {
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	for i, label := range labels {
		if i > 0 && label == "rds" && strings.HasPrefix(strings.Join(labels[i+1:], "."), "amazonaws.com") {
			return labels[i-1]
		}
	}
	return ""
}
