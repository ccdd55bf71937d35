// Package metrics makes log lines metrics of CloudWatch, by its embedded metric format.
// It is for the functions, which write one line for each step and each tick.
package metrics

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
)

// Namespace is CloudWatch's name for all of rekey's metrics.
const Namespace = "rekey"

// Metric is a member of a line that holds a number.
type Metric struct {
	Name string
	Unit string // one of CloudWatch's: "Count", "Seconds", "Milliseconds"
}

// Attrs are the members that make a line metrics. Each of the dimension sets is led by
// the function's name, which begins with the stack's: so two stacks in one account do
// not trip each other's alarms. The other members of a set must be texts of the line.
func Attrs(at time.Time, dimensions [][]string, metrics ...Metric) []slog.Attr {
	const function = "function"
	for i, set := range dimensions {
		dimensions[i] = append([]string{function}, set...)
	}
	list := make([]any, len(metrics))
	for i, m := range metrics {
		list[i] = map[string]string{"Name": m.Name, "Unit": m.Unit}
	}
	return []slog.Attr{
		slog.String(function, cmp.Or(lambdacontext.FunctionName, "local")), // CloudWatch takes no empty one
		slog.Any("_aws", map[string]any{
			"Timestamp":         at.UnixMilli(),
			"CloudWatchMetrics": []any{map[string]any{"Namespace": Namespace, "Dimensions": dimensions, "Metrics": list}},
		}),
	}
}
