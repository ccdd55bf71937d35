package alarms

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/rekeyhq/rekey/internal/template"
)

// Alarm is one of the template's.
type Alarm struct {
	Name, Description string
	metrics           []metric
	returns           string // the id of the metric or expression that counts
	periods, points   int
	threshold         float64
	compare           func(value, threshold float64) bool
}

// metric is what an alarm looks at, or works out of that.
type metric struct {
	id                    string
	namespace, name, stat string
	dimensions            map[string]string
	period                time.Duration
	expression            string
}

// Of reads the alarms of a template, by their logical names.
func Of(t *template.Template) (map[string]*Alarm, error) {
	all := map[string]*Alarm{}
	for id, r := range t.Resources {
		if r.Type != "AWS::CloudWatch::Alarm" {
			continue
		}
		a, err := read(r.Properties)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		all[id] = a
	}
	return all, nil
}

var known = []string{
	"AlarmName", "AlarmDescription", "AlarmActions", "OKActions", "Metrics", "Namespace", "MetricName", "Dimensions", "Statistic", "Period",
	"EvaluationPeriods", "DatapointsToAlarm", "Threshold", "ComparisonOperator", "TreatMissingData",
}

var comparisons = map[string]func(value, threshold float64) bool{
	"GreaterThanThreshold":          func(v, t float64) bool { return v > t },
	"GreaterThanOrEqualToThreshold": func(v, t float64) bool { return v >= t },
	"LessThanThreshold":             func(v, t float64) bool { return v < t },
	"LessThanOrEqualToThreshold":    func(v, t float64) bool { return v <= t },
}

func read(p map[string]any) (*Alarm, error) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s is not understood", name)
		}
	}
	a := &Alarm{Name: fmt.Sprint(p["AlarmName"]), Description: fmt.Sprint(p["AlarmDescription"])}
	a.compare = comparisons[fmt.Sprint(p["ComparisonOperator"])]
	var err error
	if a.periods, err = strconv.Atoi(fmt.Sprint(p["EvaluationPeriods"])); err != nil || a.periods < 1 {
		return nil, fmt.Errorf("EvaluationPeriods is %v", p["EvaluationPeriods"])
	}
	if a.points = a.periods; p["DatapointsToAlarm"] != nil {
		if a.points, err = strconv.Atoi(fmt.Sprint(p["DatapointsToAlarm"])); err != nil || a.points < 1 || a.points > a.periods {
			return nil, fmt.Errorf("DatapointsToAlarm is %v", p["DatapointsToAlarm"])
		}
	}
	if a.threshold, err = strconv.ParseFloat(fmt.Sprint(p["Threshold"]), 64); err != nil || a.compare == nil {
		return nil, fmt.Errorf("the threshold %v by %v is not understood", p["Threshold"], p["ComparisonOperator"])
	}
	if missing := fmt.Sprint(p["TreatMissingData"]); !slices.Contains([]string{"missing", "notBreaching"}, missing) {
		// By "breaching" an alarm fires before there is anything, and with some data there it
		// looks at more periods than it says: the user guide of CloudWatch, "alarms and missing data".
		return nil, fmt.Errorf("TreatMissingData is %s: say missing or notBreaching", missing)
	}
	queries, ok := p["Metrics"].([]any)
	if !ok {
		m, err := readMetric(p)
		m.id, a.returns = "m", "m"
		a.metrics = []metric{m}
		return a, err
	}
	for _, q := range queries {
		q, _ := q.(map[string]any)
		m := metric{expression: "-"}
		if stat, ok := q["MetricStat"].(map[string]any); ok {
			of, _ := stat["Metric"].(map[string]any)
			of = maps.Clone(of)
			of["Statistic"], of["Period"] = stat["Stat"], stat["Period"]
			if m, err = readMetric(of); err != nil {
				return nil, err
			}
		} else {
			m.expression = fmt.Sprint(q["Expression"])
		}
		m.id = fmt.Sprint(q["Id"])
		if fmt.Sprint(q["ReturnData"]) == "true" {
			a.returns = m.id
		}
		a.metrics = append(a.metrics, m)
	}
	if a.returns == "" {
		return nil, fmt.Errorf("no metric returns data")
	}
	return a, nil
}

func readMetric(p map[string]any) (metric, error) {
	m := metric{namespace: fmt.Sprint(p["Namespace"]), name: fmt.Sprint(p["MetricName"]), stat: fmt.Sprint(p["Statistic"]), dimensions: map[string]string{}}
	seconds, err := strconv.Atoi(fmt.Sprint(p["Period"]))
	if err != nil || seconds <= 0 || seconds%60 != 0 {
		return m, fmt.Errorf("the period %v of %s is not understood", p["Period"], m.name)
	}
	m.period = time.Duration(seconds) * time.Second
	list, _ := p["Dimensions"].([]any)
	for _, d := range list {
		d, _ := d.(map[string]any)
		m.dimensions[fmt.Sprint(d["Name"])] = fmt.Sprint(d["Value"])
	}
	if statistics[m.stat] == nil {
		return m, fmt.Errorf("the statistic %s of %s is not understood", m.stat, m.name)
	}
	return m, nil
}

var statistics = map[string]func([]float64) float64{
	"Sum":         func(v []float64) (sum float64) { return fold(v, func(a, b float64) float64 { return a + b }) },
	"Maximum":     func(v []float64) float64 { return fold(v, math.Max) },
	"Minimum":     func(v []float64) float64 { return fold(v, math.Min) },
	"SampleCount": func(v []float64) float64 { return float64(len(v)) },
}

func fold(values []float64, f func(a, b float64) float64) float64 {
	result := values[0]
	for _, v := range values[1:] {
		result = f(result, v)
	}
	return result
}

// FiresBetween tells whether the alarm is in the state ALARM at any minute between two times:
// CloudWatch looks once a minute.
func (a *Alarm) FiresBetween(data []Datum, from, to time.Time) (bool, error) {
	for at := from; !at.After(to); at = at.Add(time.Minute) {
		if fires, err := a.Fires(data, at); err != nil || fires {
			return fires, err
		}
	}
	return false, nil
}

// Fires tells whether the alarm is in the state ALARM at a time, given all data that has arrived
// by then. It looks at the last periods that are over by then. FILL fills what is missing of a
// metric where another one of the alarm's has ever had data; before, there is nothing to fill.
func (a *Alarm) Fires(data []Datum, at time.Time) (bool, error) {
	data = slices.Clone(data)
	data = slices.DeleteFunc(data, func(d Datum) bool { return d.At.After(at) || d.Arrives.After(at) })
	if !slices.ContainsFunc(a.metrics, func(m metric) bool { return slices.ContainsFunc(data, m.has) }) {
		return false, nil
	}
	period := time.Duration(0)
	for _, m := range a.metrics {
		period = max(period, m.period)
	}
	breaching := 0
	for i := range a.periods {
		to := at.Add(-time.Duration(i) * period)
		values := map[string]float64{} // what there is, by id
		for _, m := range a.metrics {
			var of []float64
			for _, d := range data {
				if m.has(d) && d.At.After(to.Add(-period)) && !d.At.After(to) {
					of = append(of, d.Value)
				}
			}
			if len(of) > 0 {
				values[m.id] = statistics[m.stat](of)
			}
		}
		for _, m := range a.metrics {
			if m.expression != "" {
				v, there, err := evaluate(m.expression, values)
				if err != nil {
					return false, fmt.Errorf("%s: %w", m.expression, err)
				}
				if there {
					values[m.id] = v
				}
			}
		}
		v, there := values[a.returns]
		if there && a.compare(v, a.threshold) {
			breaching++
		}
	}
	return breaching >= a.points, nil
}

// has reports whether a datum is of the metric.
func (m metric) has(d Datum) bool {
	return m.expression == "" && d.Namespace == m.namespace && d.Name == m.name && maps.Equal(d.Dimensions, m.dimensions)
}
