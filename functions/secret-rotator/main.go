// Command secret-rotator is the Lambda function that Secrets Manager calls to
// rotate a secret.
package main

import (
	"context"
	"log"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/generated"
	"github.com/rekeyhq/rekey/rotators/iamkey"
	"github.com/rekeyhq/rekey/rotators/mysql"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/redis"
)

func main() {
	cfg, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	pg, my, rd := postgres.New(cfg, nil), mysql.New(cfg, nil), redis.New(cfg, nil)
	lambda.Start(functions.SecretRotator(cfg, rotators.Registry{
		"postgres":          pg,
		"postgresql":        pg, // the scheme of a URL
		"aurora-postgresql": pg, // RDS's name for Aurora
		"mysql":             my,
		"aurora-mysql":      my,
		"mariadb":           my,
		"redis":             rd,
		"valkey":            rd,
		"iam-key":           iamkey.New(cfg, nil),
		"generated":         generated.New(), // what no other system holds
	}))
}
