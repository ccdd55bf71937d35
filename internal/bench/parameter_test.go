package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
)

// BenchmarkPlanner measures one run of the planner among so many parameters, of
// which an hour's share of 30 days is due: its peak of memory, its calls and how
// long it takes. That is as long as it wants to: it reads ten times a second.
//
// Among 100,000 it is given 90 seconds and not 15 minutes, in which it looks
// at a few of them. By then it has listed all of them, which is what takes memory.
func BenchmarkPlanner(b *testing.B) {
	for _, c := range []struct {
		parameters int
		timeout    time.Duration
	}{{1_000, 15 * time.Minute}, {10_000, 15 * time.Minute}, {100_000, 90 * time.Second}} {
		b.Run(strconv.Itoa(c.parameters), func(b *testing.B) {
			l := newLocal(b)
			if _, err := l.cloud.AddQueue("q.fifo", map[string]string{"FifoQueue": "true"}); err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			for i := range c.parameters {
				changed := now
				if i%(30*24) == 0 {
					changed = now.AddDate(0, 0, -40)
				}
				l.cloud.AddParameter(localaws.Parameter{
					Name: fmt.Sprintf("/shop/%06d/password", i), Type: "SecureString", Value: "x", Changed: changed,
					Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d", "rekey:connection": "postgres://app@db.example.com:5432/shop"},
				})
			}
			var memory, seconds []float64
			var calls []localaws.Call
			for b.Loop() {
				before := len(l.cloud.Calls())
				f := l.function(function(b, "parameter-planner"), c.timeout, "REKEY_QUEUE_URL="+l.cloud.QueueURL(l.endpoint, "q.fifo"))
				started := time.Now()
				_, err := f.Invoke(b.Context(), []byte("{}"))
				seconds = append(seconds, time.Since(started).Seconds())
				memory = append(memory, float64(f.Stats().PeakRSS)/1e6)
				_ = f.Close()
				if err != nil {
					b.Fatalf("%v\n%s", err, l.log.String())
				}
				calls = l.cloud.Calls()[before:]
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(slices.Max(memory), "peak-MB")
			b.ReportMetric(median(seconds), "s")
			for operation, n := range operations(calls) {
				b.ReportMetric(float64(n), operation)
			}
			b.ReportMetric(float64(len(calls)-operations(calls)["SendMessageBatch"]), "calls-but-SQS's")
			b.ReportMetric(float64(c.parameters/100+c.parameters/10+20), "budget")
		})
	}
}

func operations(calls []localaws.Call) map[string]int {
	count := map[string]int{}
	for _, c := range calls {
		count[c.Operation]++
	}
	return count
}

// BenchmarkParameter measures the peak resident memory of a process that rotates
// one parameter, counts AWS calls and logins, of which it reports the largest, and
// measures how long the next rotation by the same process takes.
func BenchmarkParameter(b *testing.B) {
	s := newSetup(b)
	const name = "/shop/db"
	s.cloud.AddParameter(localaws.Parameter{
		Name: name, Type: "SecureString", Value: s.value(), Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"},
	})
	client := ssm.NewFromConfig(s.config)
	order := func() []byte {
		found, err := paramstore.Describe(b.Context(), client, []string{name})
		if err != nil {
			b.Fatal(err)
		}
		body, _ := json.Marshal(queue.Message{Parameter: found[0].Parameter})
		event, _ := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{MessageId: "m", Body: string(body)}}})
		return event
	}

	var memory, warm []float64
	var calls, logins, refused int
	for b.Loop() {
		f := s.function(function(b, "parameter-rotator"), 0, "REKEY_QUEUE_URL=https://queue", "REKEY_SSM_WRITES_PER_SECOND=1000")
		for _, again := range []bool{false, true} {
			event := order()
			called, logged := len(s.cloud.Calls()), len(s.database.Log())
			started := time.Now()
			if _, err := f.Invoke(b.Context(), event); err != nil {
				b.Fatalf("%v\n%s", err, s.log.String())
			}
			if again {
				warm = append(warm, milliseconds(time.Since(started)))
			} else {
				memory = append(memory, float64(f.Stats().PeakRSS)/1e6)
			}
			calls = max(calls, len(s.cloud.Calls())-called)
			log := s.database.Log()[logged:]
			logins = max(logins, strings.Count(log, "connection authorized: user="+user))
			refused = max(refused, strings.Count(log, "FATAL"))
		}
		_ = f.Close()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(memory), "peak-MB")
	b.ReportMetric(slices.Max(memory), "peak-max-MB")
	b.ReportMetric(median(warm), "rotation-ms")
	b.ReportMetric(float64(calls), "AWS-calls")
	b.ReportMetric(float64(logins), "logins")
	b.ReportMetric(float64(refused), "failed-logins")
}
