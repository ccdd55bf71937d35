// Package alarms tells which alarms of template.yaml fire, given the lines that the
// functions print. It is for tests: it reads the lines as CloudWatch does, and decides
// about an alarm as CloudWatch documents it.
package alarms

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Datum is one value of one metric with one set of dimensions.
type Datum struct {
	Namespace, Name string
	Dimensions      map[string]string
	Value           float64
	At              time.Time
	// Arrives is when CloudWatch has it; zero: at once. A function's metrics bear the time of
	// the invocation, and are there when that is over, and a minute or two later.
	Arrives time.Time
}

// units are those that CloudWatch knows.
var units = []string{
	"Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits", "Kilobits", "Megabits",
	"Gigabits", "Terabits", "Percent", "Count", "Bytes/Second", "Kilobytes/Second", "Megabytes/Second", "Gigabytes/Second", "Terabytes/Second",
	"Bits/Second", "Kilobits/Second", "Megabits/Second", "Gigabits/Second", "Terabits/Second", "Count/Second", "None",
}

// Read returns the metrics of a line; none if it has no member _aws. It holds the line
// against the schema of the embedded metric format that the user guide of CloudWatch
// publishes, and against its quotas: 30 dimensions in a set, 100 metrics in a directive.
func Read(line []byte) ([]Datum, error) {
	var root map[string]json.RawMessage
	if err := json.Unmarshal(line, &root); err != nil {
		return nil, fmt.Errorf("no object of JSON: %w", err)
	}
	raw, ok := root["_aws"]
	if !ok {
		return nil, nil
	}
	var aws struct {
		Timestamp         *int64
		CloudWatchMetrics []struct {
			Namespace  string
			Dimensions [][]string
			Metrics    []struct {
				Name, Unit        string
				StorageResolution *int
			}
		}
	}
	if err := json.Unmarshal(raw, &aws); err != nil {
		return nil, fmt.Errorf("_aws: %w", err)
	}
	if aws.Timestamp == nil || len(aws.CloudWatchMetrics) == 0 {
		return nil, errors.New("_aws has no Timestamp or no CloudWatchMetrics")
	}
	var data []Datum
	for _, d := range aws.CloudWatchMetrics {
		if n := len(d.Namespace); n < 1 || n > 1024 {
			return nil, fmt.Errorf("the namespace %q has %d characters", d.Namespace, n)
		}
		if len(d.Dimensions) == 0 || len(d.Metrics) == 0 || len(d.Metrics) > 100 {
			return nil, fmt.Errorf("%d sets of dimensions and %d metrics", len(d.Dimensions), len(d.Metrics))
		}
		for _, set := range d.Dimensions {
			if len(set) > 30 {
				return nil, fmt.Errorf("%d dimensions", len(set))
			}
			dimensions := map[string]string{}
			for _, name := range set {
				var value string
				if err := json.Unmarshal(root[name], &value); err != nil || len(name) < 1 || len(name) > 250 || len(value) < 1 || len(value) > 1024 {
					return nil, fmt.Errorf("the dimension %q is %s, and must be a text of 1 to 1024 characters", name, root[name])
				}
				dimensions[name] = value
			}
			for _, m := range d.Metrics {
				var value float64
				if err := json.Unmarshal(root[m.Name], &value); err != nil || len(m.Name) < 1 || len(m.Name) > 1024 {
					return nil, fmt.Errorf("the metric %q is %s, and must be a number", m.Name, root[m.Name])
				}
				if m.Unit != "" && !slices.Contains(units, m.Unit) {
					return nil, fmt.Errorf("the metric %q has the unit %q", m.Name, m.Unit)
				}
				if m.StorageResolution != nil && *m.StorageResolution != 1 && *m.StorageResolution != 60 {
					return nil, fmt.Errorf("the metric %q has the resolution %d", m.Name, *m.StorageResolution)
				}
				data = append(data, Datum{Namespace: d.Namespace, Name: m.Name, Dimensions: maps.Clone(dimensions), Value: value, At: time.UnixMilli(*aws.Timestamp)})
			}
		}
	}
	return data, nil
}
