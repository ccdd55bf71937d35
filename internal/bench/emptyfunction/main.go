// The command emptyfunction is a Lambda function that does nothing: what any
// function in Go costs. It is for the benchmarks, which hold rekey's functions
// against it.
package main

import (
	"context"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(context.Context) error { return nil })
}
