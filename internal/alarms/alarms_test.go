package alarms

import (
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	const line = `{"a":"x","b":"y","n":1.5,"m":2,"_aws":{"Timestamp":1795464000000,"CloudWatchMetrics":[{"Namespace":"rekey","Dimensions":[["a"],["a","b"]],"Metrics":[{"Name":"n","Unit":"Count"},{"Name":"m"}]}]}}`
	data, err := Read([]byte(line))
	if err != nil || len(data) != 4 || data[2].Dimensions["b"] != "y" || data[2].Value != 1.5 || data[2].Name != "n" || data[0].At.Unix() != 1795464000 {
		t.Errorf("got %+v, %v", data, err)
	}
	if data, err := Read([]byte(`{"level":"INFO"}`)); err != nil || data != nil {
		t.Errorf("a line without metrics: %v, %v", data, err)
	}
	for old, c := range map[string]struct{ now, want string }{
		`"a":"x"`:                         {`"a":""`, `the dimension "a"`},
		`"b":"y"`:                         {`"b":7`, `the dimension "b"`},
		`"n":1.5`:                         {`"n":"1.5"`, `the metric "n" is "1.5"`},
		`"m":2,`:                          {``, `the metric "m"`},
		`"Unit":"Count"`:                  {`"Unit":"count"`, `the unit "count"`},
		`"Timestamp":1795464000000,`:      {``, `no Timestamp`},
		`"Timestamp":1795464000000`:       {`"Timestamp":"now"`, `_aws`},
		`"Namespace":"rekey"`:             {`"Namespace":""`, `the namespace`},
		`"Dimensions":[["a"],["a","b"]],`: {``, `0 sets of dimensions`},
		`{"Name":"m"}`:                    {`{"Name":"m","StorageResolution":30}`, `the resolution 30`},
	} {
		_, err := Read([]byte(strings.Replace(line, old, c.now, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v", c.now, old, err)
		}
	}
}

func TestEvaluate(t *testing.T) {
	values := map[string]float64{"a": 3, "b": 1}
	for text, want := range map[string]any{
		"a": 3.0, "a + b - 1": 3.0, "FILL(none, 7)": 7.0, "FILL(a, 7)": 3.0, "IF(a > b, a - b, 0)": 2.0, "IF(b > a, 9, 0) + 1": 1.0,
		"none": nil, "a + none": nil, "IF(none > 1, 1, 2)": nil,
	} {
		v, there, err := evaluate(text, values)
		if err != nil || there != (want != nil) || there && v != want {
			t.Errorf("%s is %v, %t, %v", text, v, there, err)
		}
	}
	for _, text := range []string{"", "a *b", "RATE(a)", "IF(a, b", "a b", "FILL(a)"} {
		if _, _, err := evaluate(text, values); err == nil {
			t.Errorf("%q is understood", text)
		}
	}
}

// Two of three periods, as CloudWatch counts them.
func TestFires(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	alarm := func(more map[string]any) *Alarm {
		p := map[string]any{
			"Namespace": "n", "MetricName": "m", "Statistic": "Maximum", "Period": 3600, "Dimensions": []any{map[string]any{"Name": "f", "Value": "x"}},
			"EvaluationPeriods": 3, "DatapointsToAlarm": 2, "Threshold": 1, "ComparisonOperator": "GreaterThanOrEqualToThreshold", "TreatMissingData": "notBreaching",
		}
		for k, v := range more {
			p[k] = v
		}
		a, err := read(p)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	datum := func(hours float64, value float64, function string) Datum {
		return Datum{"n", "m", map[string]string{"f": function}, value, now.Add(-time.Duration(hours * float64(time.Hour))), time.Time{}}
	}
	for name, c := range map[string]struct {
		more map[string]any
		data []Datum
		want bool
	}{
		"nothing":           {nil, nil, false},
		"not there yet":     {nil, []Datum{datum(0.5, 1, "x"), {"n", "m", map[string]string{"f": "x"}, 1, now.Add(-150 * time.Minute), now.Add(time.Minute)}}, false},
		"one period":        {nil, []Datum{datum(0.5, 1, "x"), datum(0.6, 5, "x")}, false},
		"two periods":       {nil, []Datum{datum(0.5, 1, "x"), datum(2.5, 1, "x")}, true},
		"too long ago":      {nil, []Datum{datum(0.5, 1, "x"), datum(3.5, 1, "x")}, false},
		"too little":        {nil, []Datum{datum(0.5, 1, "x"), datum(2.5, 0.5, "x")}, false},
		"of something else": {nil, []Datum{datum(0.5, 1, "x"), datum(2.5, 1, "y")}, false},
		"a sum":             {map[string]any{"Statistic": "Sum", "Threshold": 3, "DatapointsToAlarm": 1}, []Datum{datum(0.5, 1, "x"), datum(0.6, 2, "x")}, true},
		"how many":          {map[string]any{"Statistic": "SampleCount", "ComparisonOperator": "LessThanThreshold", "DatapointsToAlarm": 1}, []Datum{datum(0.5, 0, "x")}, false},
	} {
		if got, err := alarm(c.more).Fires(c.data, now); err != nil || got != c.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	if _, err := read(map[string]any{"EvaluateLowSampleCountPercentile": "ignore"}); err == nil {
		t.Error("a property that is not known was understood")
	}
}
