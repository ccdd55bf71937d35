// Command function is a Lambda function that rotates keys of Acme and, beside
// them, what rekey brings along.
package main

import (
	"context"
	"log"
	"net/http"

	"acme.example/acme"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/postgres"
)

func main() {
	cfg, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start(functions.SecretRotator(cfg, rotators.Registry{
		"acme":     acme.New("https://api.acme.example/v1", http.DefaultTransport),
		"postgres": postgres.New(cfg, nil),
	}))
}
