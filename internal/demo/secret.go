package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// secret has Secrets Manager rotate a password.
func (d *demo) secret(ctx context.Context) error {
	first, err := d.user(ctx, "app")
	if err != nil {
		return err
	}
	fmt.Print("\nSecrets Manager: the secret shop/database holds app's login. rotate-secret:\n\n")
	text, err := d.rotate(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("shop/database"), SecretString: aws.String(first.String())}, 1, map[string]string{
		"createSecret": "made a new password and stored it as AWSPENDING",
		"setSecret":    "changed app's password, and proved it by a fresh login",
		"testSecret":   "logged in with the pending password",
		"finishSecret": "moved AWSCURRENT: readers get the new password",
	})
	if err != nil {
		return err
	}
	var second login
	if err := json.Unmarshal([]byte(text), &second); err != nil {
		return err
	}
	fmt.Println("\nThe proof, each by a connection of its own:")
	return d.proved(ctx, second.Username, second.Password)
}

// rotate creates a secret, rotates it so many times, printing what each step did, and
// returns its value.
func (d *demo) rotate(ctx context.Context, in *secretsmanager.CreateSecretInput, times int, did map[string]string) (string, error) {
	stop, err := d.function("secret-rotator", func(f localaws.Function) localaws.Function { return &stepped{Function: f, cloud: d.cloud, did: did} })
	if err != nil {
		return "", err
	}
	defer func() { _ = stop() }()
	secret, err := d.secrets.CreateSecret(ctx, in)
	if err != nil {
		return "", err
	}
	for range times {
		_, err = d.secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
			SecretId:          secret.ARN,
			RotationLambdaARN: aws.String(d.cloud.FunctionARN("secret-rotator")),
			RotationRules:     &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
		})
		if err != nil {
			return "", err
		}
		if err := d.cloud.Wait(ctx, *secret.ARN); err != nil {
			_ = stop() // the log is whole when the process is gone
			return "", fmt.Errorf("the rotation failed: %w\nThe function's log:\n%s", err, d.log.String())
		}
	}
	current, err := d.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: secret.ARN})
	if err != nil {
		return "", err
	}
	return *current.SecretString, nil
}

// stepped prints a line for each step the function takes.
type stepped struct {
	localaws.Function
	cloud *localaws.Server
	did   map[string]string // what a step does, for those who see it for the first time
	once  sync.Once
}

func (w *stepped) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	w.once.Do(func() { fmt.Printf("  %-13s %-56s %9s %13s\n", "step", "what it did", "AWS calls", "milliseconds") })
	var event struct{ Step string }
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, err
	}
	before, start := len(w.cloud.Calls()), time.Now()
	response, err := w.Function.Invoke(ctx, payload)
	what := w.did[event.Step]
	if err != nil {
		what = "failed: " + err.Error()
	}
	fmt.Printf("  %-13s %-56s %9d %13.1f\n", event.Step, what, len(w.cloud.Calls())-before, float64(time.Since(start).Microseconds())/1000)
	return response, err
}
