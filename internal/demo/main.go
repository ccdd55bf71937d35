// Command demo shows rekey's main job on this machine, with nothing pretended:
// it starts private servers and AWS on the laptop, asks Secrets Manager to rotate
// secrets, lets a schedule tick for two parameters that are due, and counts the logins
// that are refused meanwhile. An access key of IAM and a keyring for JWTs are rotated,
// too. The functions that ship do the work, started the way
// Lambda starts them. It exits 0 only if the new passwords then log in, and if the old
// ones are refused or in their grace, as they should be.
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
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/servers"
)

func main() {
	functions := flag.String("functions", "build", "the folder with the functions, as make build leaves it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *functions)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const (
	region        = "us-east-1"
	firstPassword = "the-first-password"
)

// demo is what both parts use.
type demo struct {
	database *servers.PostgresServer
	cloud    *localaws.Server
	config   aws.Config
	secrets  *secretsmanager.Client
	endpoint string
	folder   string // of the functions
	log      bytes.Buffer
	watching atomic.Bool
}

func run(ctx context.Context, folder string) error {
	database, err := servers.Postgres(ctx, servers.PostgresOptions{})
	if err != nil {
		return err
	}
	defer database.Stop()
	fmt.Printf("A private PostgreSQL listens on %s:%d.\n", database.Host, database.Port)

	d := &demo{database: database, folder: folder}
	d.cloud = localaws.New(localaws.Config{Region: region, Fault: d.pace})
	defer d.cloud.Close()
	if d.endpoint, err = serve(ctx, d.cloud); err != nil {
		return err
	}
	d.config = aws.Config{Region: region, BaseEndpoint: &d.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
	d.secrets = secretsmanager.NewFromConfig(d.config)
	fmt.Printf("AWS on the laptop listens on %s, with the functions in %s behind it.\n", d.endpoint, folder)
	return errors.Join(d.secret(ctx), d.parameters(ctx), d.accessKey(ctx), d.keyring(ctx), d.watched(ctx))
}

// function has the cloud invoke the function of that name as it ships.
func (d *demo) function(name string, watch func(localaws.Function) localaws.Function) (stop func() error, err error) {
	bootstrap := filepath.Join(d.folder, name, "bootstrap")
	if _, err := os.Stat(bootstrap); err != nil {
		return nil, fmt.Errorf("%w: build it with make build", err)
	}
	f := locallambda.New(locallambda.Config{
		Name: name, Bootstrap: bootstrap, Region: region, Log: &d.log,
		Env: []string{
			"AWS_ENDPOINT_URL=" + d.endpoint, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local",
			"REKEY_QUEUE_URL=" + d.cloud.QueueURL(d.endpoint, queue),
		},
	})
	d.cloud.Handle(name, watch(f))
	return f.Close, nil
}

// user makes a user of the database and returns its login.
func (d *demo) user(ctx context.Context, name string) (login, error) {
	l := login{
		Engine: "postgres", Host: d.database.Host, Port: d.database.Port,
		Username: name, Password: firstPassword, DBName: "postgres",
	}
	return l, d.database.Exec(ctx, "CREATE ROLE "+name+" LOGIN PASSWORD '"+firstPassword+"'")
}

// proved prints, by connections of its own, that the new password of a user
// works and the first one does not.
func (d *demo) proved(ctx context.Context, user, password string) error {
	return errors.Join(
		prove(user+": the new password logs in", d.database.Login(ctx, user, password) == nil),
		prove(user+": the old password is refused", servers.Refused(d.database.Login(ctx, user, firstPassword))),
	)
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

// login is a value in the form AWS's own templates use.
type login struct {
	Engine   string `json:"engine"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Username string `json:"username"`
	Password string `json:"password"`
	DBName   string `json:"dbname,omitempty"`
	SSL      bool   `json:"ssl"` // these servers are on loopback and offer no TLS
}

func (l login) String() string {
	text, _ := json.Marshal(l) // strings and numbers always encode
	return string(text)
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
