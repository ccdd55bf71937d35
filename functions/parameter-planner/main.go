// Command parameter-planner is the Lambda function that a schedule calls to find
// the parameters that are due and to queue them.
package main

import (
	"context"
	"log"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/rekeyhq/rekey/functions"
)

func main() {
	cfg, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	lambda.Start(functions.ParameterPlanner(cfg))
}
