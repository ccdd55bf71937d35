package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/localaws"
)

const queue = "rekey-parameters.fifo"

// parameters lets the schedule tick once. Of three parameters two are due.
func (d *demo) parameters(ctx context.Context) error {
	asJSON, err := d.user(ctx, "billing")
	if err != nil {
		return err
	}
	plain, err := d.user(ctx, "reports")
	if err != nil {
		return err
	}
	old := time.Now().AddDate(0, 0, -31)
	tags := func(more ...string) map[string]string {
		tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
		if len(more) > 0 {
			tags["rekey:connection"] = more[0]
		}
		return tags
	}
	d.cloud.AddParameter(localaws.Parameter{Name: "/shop/billing", Type: "SecureString", Value: asJSON.String(), Changed: old, Tags: tags()})
	d.cloud.AddParameter(localaws.Parameter{Name: "/shop/reports/password", Type: "SecureString", Value: plain.Password, Changed: old,
		Tags: tags(fmt.Sprintf("postgres://%s@%s:%d/postgres?sslmode=disable", plain.Username, plain.Host, plain.Port))})
	d.cloud.AddParameter(localaws.Parameter{Name: "/shop/changed-today", Type: "SecureString", Value: asJSON.String(),
		Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "365d"}})
	fmt.Print(`
Parameter Store, which has no rotation: three parameters are tagged for rekey,
/shop/billing as JSON, /shop/reports/password as nothing but the password, and one
that was changed today. The schedule ticks:

`)
	if _, err := d.cloud.AddQueue(queue, map[string]string{"FifoQueue": "true", "VisibilityTimeout": "150"}); err != nil {
		return err
	}
	start := func(name, what string) (func() error, error) {
		return d.function(name, func(f localaws.Function) localaws.Function { return &timed{f, d.cloud, name, what} })
	}
	fmt.Printf("  %-17s %-52s %9s %13s\n", "function", "what it did", "AWS calls", "milliseconds")
	stopPlanner, err := start("parameter-planner", "looked at 3 and queued an order for each that is due")
	if err != nil {
		return err
	}
	defer func() { _ = stopPlanner() }()
	stopWorker, err := start("parameter-rotator", "rotated one: all four steps")
	if err != nil {
		return err
	}
	defer func() { _ = stopWorker() }()
	failed := func(err error) error {
		return errors.Join(fmt.Errorf("%w\nThe functions' log:\n%s", err, d.log.String()), stopPlanner(), stopWorker())
	}
	if err := d.cloud.Tick(ctx, "parameter-planner"); err != nil {
		return failed(err)
	}
	// One worker, so that the lines above count its calls alone.
	if err := d.cloud.Subscribe(queue, "parameter-rotator", 1); err != nil {
		return err
	}
	if err := d.cloud.Idle(ctx, queue); err != nil {
		return failed(err)
	}

	fmt.Println("  The worker waits for its share of the three writes a second that Parameter Store allows.")

	fmt.Println("\nThe proof:")
	client := ssm.NewFromConfig(d.config)
	read := func(name string) (string, int64, error) {
		out, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
		if err != nil {
			return "", 0, err
		}
		return *out.Parameter.Value, out.Parameter.Version, nil
	}
	billing, _, err := read("/shop/billing")
	if err != nil {
		return err
	}
	var second login
	if err := json.Unmarshal([]byte(billing), &second); err != nil {
		return err
	}
	reports, _, err := read("/shop/reports/password")
	if err != nil {
		return err
	}
	_, version, err := read("/shop/changed-today")
	if err != nil {
		return err
	}
	rest := strings.Replace(billing, second.Password, asJSON.Password, 1) == asJSON.String()
	return errors.Join(
		d.proved(ctx, second.Username, second.Password),
		prove("billing: nothing in the value changed but the password", rest),
		d.proved(ctx, plain.Username, reports),
		prove("the one that was changed today is as it was", version == 1),
	)
}

// timed prints a line for each invocation.
type timed struct {
	localaws.Function
	cloud      *localaws.Server
	name, what string
}

func (w *timed) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	before, start := len(w.cloud.Calls()), time.Now()
	response, err := w.Function.Invoke(ctx, payload)
	what := w.what
	if err != nil {
		what = "failed: " + err.Error()
	}
	fmt.Printf("  %-17s %-52s %9d %13.1f\n", w.name, what, len(w.cloud.Calls())-before, float64(time.Since(start).Microseconds())/1000)
	return response, err
}
