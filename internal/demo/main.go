// Command demo shows rekey's main job on this machine, with nothing pretended:
// it starts a private PostgreSQL and AWS on the laptop, asks Secrets Manager to
// rotate a secret, and has the function that ships do it, started the way
// Lambda starts it. It exits 0 only if the new password then logs in and the
// old one is refused.
//
// Run it with make demo.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/servers"
)

func main() {
	bootstrap := flag.String("bootstrap", "build/secret-rotator/bootstrap", "the function, as make build leaves it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, *bootstrap)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const region = "us-east-1"

// login is the secret's value, in the form AWS's own templates use.
type login struct {
	Engine   string `json:"engine"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Username string `json:"username"`
	Password string `json:"password"`
	DBName   string `json:"dbname"`
	SSL      bool   `json:"ssl"` // this PostgreSQL is on loopback and offers no TLS
}

func demo(ctx context.Context, bootstrap string) error {
	if _, err := os.Stat(bootstrap); err != nil {
		return fmt.Errorf("%w: build it with make build", err)
	}
	database, err := servers.Postgres(ctx, servers.PostgresOptions{})
	if err != nil {
		return err
	}
	defer database.Stop()
	first := login{
		Engine: "postgres", Host: database.Host, Port: database.Port,
		Username: "app", Password: "the-first-password", DBName: "postgres",
	}
	if err := database.Exec(ctx, "CREATE ROLE app LOGIN PASSWORD 'the-first-password'"); err != nil {
		return err
	}
	fmt.Printf("A private PostgreSQL listens on %s:%d and has a user app.\n", database.Host, database.Port)

	cloud := localaws.New(localaws.Config{Region: region})
	defer cloud.Close()
	endpoint, err := serve(ctx, cloud)
	if err != nil {
		return err
	}
	var log bytes.Buffer
	function := locallambda.New(locallambda.Config{
		Name: "secret-rotator", Bootstrap: bootstrap, Region: region, Log: &log,
		Env: []string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local"},
	})
	defer function.Close()
	cloud.Handle("secret-rotator", &watched{Function: function, cloud: cloud})
	fmt.Printf("AWS on the laptop listens on %s, with %s behind it.\n", endpoint, bootstrap)

	client := secretsmanager.New(secretsmanager.Options{
		Region: region, BaseEndpoint: &endpoint,
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
	})
	value, err := json.Marshal(first)
	if err != nil {
		return err
	}
	secret, err := client.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("shop/database"), SecretString: aws.String(string(value))})
	if err != nil {
		return err
	}
	fmt.Printf("The secret %s holds app's login.\n\n", *secret.Name)

	fmt.Println("rotate-secret:")
	_, err = client.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
		SecretId:          secret.ARN,
		RotationLambdaARN: aws.String(cloud.FunctionARN("secret-rotator")),
		RotationRules:     &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		return err
	}
	if err := cloud.Wait(ctx, *secret.ARN); err != nil {
		_ = function.Close() // the log is whole when the process is gone
		return fmt.Errorf("the rotation failed: %w\nThe function's log:\n%s", err, log.String())
	}

	current, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: secret.ARN})
	if err != nil {
		return err
	}
	var second login
	if err := json.Unmarshal([]byte(*current.SecretString), &second); err != nil {
		return err
	}
	fmt.Println("\nThe proof, each by a connection of its own:")
	return errors.Join(
		prove("the new password logs in", database.Login(ctx, second.Username, second.Password) == nil),
		prove("the old password is refused", servers.Refused(database.Login(ctx, first.Username, first.Password))),
	)
}

// serve serves AWS on a free loopback port until ctx ends.
func serve(ctx context.Context, cloud http.Handler) (endpoint string, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: cloud}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return "http://" + listener.Addr().String(), nil
}

// watched prints a line for each step the function takes.
type watched struct {
	localaws.Function
	cloud *localaws.Server
	once  sync.Once
}

// did says what a step does, for those who see it for the first time.
var did = map[string]string{
	"createSecret": "made a new password and stored it as AWSPENDING",
	"setSecret":    "changed app's password, and proved it by a fresh login",
	"testSecret":   "logged in with the pending password",
	"finishSecret": "moved AWSCURRENT: readers get the new password",
}

func (w *watched) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	w.once.Do(func() { fmt.Printf("  %-13s %-56s %9s %13s\n", "step", "what it did", "AWS calls", "milliseconds") })
	var event struct{ Step string }
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, err
	}
	before, start := len(w.cloud.Calls()), time.Now()
	response, err := w.Function.Invoke(ctx, payload)
	what := did[event.Step]
	if err != nil {
		what = "failed: " + err.Error()
	}
	fmt.Printf("  %-13s %-56s %9d %13.1f\n", event.Step, what, len(w.cloud.Calls())-before, float64(time.Since(start).Microseconds())/1000)
	return response, err
}

// prove prints a claim and whether it holds.
func prove(claim string, holds bool) error {
	if !holds {
		fmt.Printf("  NO   %s\n", claim)
		return fmt.Errorf("it does not hold that %s", claim)
	}
	fmt.Printf("  yes  %s\n", claim)
	return nil
}
