package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/paramstore"
	engine "github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/watch"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/iamkey"
	"github.com/rekeyhq/rekey/rotators/mysql"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/redis"
)

func watchCommand() *command {
	return &command{
		name: "watch",
		args: "[flags] NAME|ARN",
		what: "draw how an application fares while one is rotated",
		help: `
Does what an application does that uses a secret of Secrets Manager or a parameter of
Parameter Store: reads it, logs in with what it got, and begins again, a hundred times
a second (ten times for a parameter, of which an account may read 40 a second). It
counts the logins that are refused and draws what it saw, a lane for each credential.
A name is looked for in both; ssm:NAME is the parameter only, an ARN what it says.

  AWS_PROFILE=prod rekey watch --rotate --svg rotation.svg /shop/db/password

It watches until readers got another credential and nothing has changed for two
seconds, or for as long as --for says, or until it is interrupted; then the drawing
is on stdout. In a terminal it is drawn all the while. With --rotate it orders the
rotation itself once it has logged in a few times; without, it changes nothing.

Besides what readers get it tries all other credentials it has seen, refused ones
too, a hundred times a second each: mind servers that lock a user out for that. To
show the pending one it must be allowed to read what is pending; without that, each
credential is shown from when readers get it. Neither the drawing nor the SVG holds
a value, only names of users.

The exit status is 1 if it could not watch: the credential could not be read, or the
server could not be reached from here. Refused logins do not change it.

It acts on the AWS that your environment names (AWS_PROFILE, AWS_REGION,
AWS_ENDPOINT_URL, ...). For a secret it needs secretsmanager:DescribeSecret and
secretsmanager:GetSecretValue there; for a parameter ssm:DescribeParameters,
ssm:ListTagsForResource and ssm:GetParameter (for what is pending, of /rekey/pending/*;
with rekey:connection=siblings also ssm:GetParameters); kms:Decrypt for keys of your
own; with --rotate what rekey rotate needs.`,
		run: watchOne,
	}
}

// rehearsed is after how many logins --rotate orders the rotation: enough to see how
// things were before.
const rehearsed = 20

// redraw is how often the drawing in a terminal is made anew.
const redraw = 250 * time.Millisecond

func watchOne(ctx context.Context, c *call) int {
	flags := new(flag.FlagSet)
	svg := flags.String("svg", "", "also draw it into the `FILE`")
	length := flags.Duration("for", 0, "watch for this `TIME` (default: until a rotation is over)")
	rotates := flags.Bool("rotate", false, "order the rotation")
	queueURL := flags.String("queue-url", callersQueue(), queueUsage)
	stage := flags.String("stage", callersStage(), stageUsage)
	args, status, ok := c.parse(flags, 1)
	if !ok {
		return status
	}
	if *length < 0 {
		return c.misuse("--for is %v; it must be more than nothing", *length)
	}
	m, err := meant(args[0])
	if err != nil {
		return c.misuse("%v", err)
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return c.fail(err)
	}
	live := newProgress(c.stdout).terminal
	ordering := *c
	ordering.stdout = c.stderr
	if live {
		ordering.stdout, ordering.stderr = io.Discard, io.Discard // the drawing tells
	}
	o := &order{call: c, aws: cfg, stage: *stage, queueURL: *queueURL}
	secret, parameter, status, ok := o.choose(ctx, m, *rotates)
	if !ok {
		return status
	}
	o.call = &ordering
	w, err := watcher(ctx, cfg, secret, parameter)
	if err != nil {
		return c.fail(err)
	}
	w.Stay = *length > 0

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ready := make(chan struct{})
	tried := 0
	w.Seen = func(l watch.Login) {
		if l.Readers {
			if tried++; tried == rehearsed {
				close(ready)
			}
		}
	}
	ordered := make(chan error, 1)
	go func() {
		select {
		case <-ready:
			var err error
			if *rotates {
				err = o.rotate(ctx, secret, parameter)
			}
			if ordered <- err; err != nil {
				stop() // there is nothing to be seen
			}
		case <-ctx.Done():
			ordered <- nil
		}
	}()
	err = c.show(ctx, w, *length, live)
	stop()
	if err = errors.Join(<-ordered, err); err != nil {
		return c.fail(err)
	}
	r := w.Record()
	fmt.Fprint(c.stdout, r.Text())
	if *svg != "" {
		if err := os.WriteFile(*svg, []byte(r.SVG()), 0o644); err != nil {
			return c.fail(err)
		}
	}
	return succeeded
}

// show runs the watcher, for the given time if it is not 0, and in a terminal shows
// meanwhile what it sees.
func (c *call) show(ctx context.Context, w *watch.Watcher, length time.Duration, live bool) error {
	if length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, length)
		defer cancel()
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for lines := 0; ; { // of the drawing in the terminal
		select {
		case err := <-ended:
			fmt.Fprint(rawly(c.stdout), erase(lines))
			return err
		case <-ticker.C:
			if live {
				text := w.Record().Text()
				fmt.Fprint(rawly(c.stdout), erase(lines))
				fmt.Fprint(c.stdout, text)
				lines = strings.Count(text, "\n")
			}
		}
	}
}

// erase takes as many lines off a terminal.
func erase(lines int) string {
	if lines == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\x1b[J", lines)
}

// watcher makes one for the secret or parameter that is not nil.
func watcher(ctx context.Context, cfg aws.Config, secret *secretsmanager.DescribeSecretOutput, parameter *paramstore.Described) (*watch.Watcher, error) {
	tags := map[string]string{}
	w := &watch.Watcher{Reader: &engine.Reader{Registry: registry(cfg)}}
	client := ssm.NewFromConfig(cfg)
	if secret != nil {
		for _, tag := range secret.Tags {
			tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
		}
		w.Reader.ID = aws.ToString(secret.ARN)
		w.Source = watch.Secret(secretsmanager.NewFromConfig(cfg), aws.ToString(secret.Name), w.Reader.ID)
	} else {
		var err error
		if tags, err = parameterTags(ctx, client, parameter.Name); err != nil {
			return nil, err
		}
		w.Reader.ID = parameter.ARN
		w.Source = watch.Parameter(client, parameter.Name, parameter.ARN)
	}
	var err error
	if w.Reader.Tags, err = engine.ReadTags(tags); err != nil {
		return nil, err
	}
	if w.Reader.Tags.Settings.Rotator == "generated" {
		return nil, fmt.Errorf("there is nothing to watch: what %s holds is made by rekey, no other system knows it, and so none accepts or refuses it", w.Source.Name)
	}
	if parameter != nil && w.Reader.Tags.Connection == engine.Siblings {
		w.Reader.Tags.Connection, err = paramstore.Siblings(ctx, client, parameter.Name)
	}
	return w, err
}

// registry holds the rotators with which logins are tried: all but generated, of
// whose values there are none.
func registry(cfg aws.Config) rotators.Registry {
	pg, my, rd := postgres.New(cfg, nil), mysql.New(cfg, nil), redis.New(cfg, nil)
	return rotators.Registry{
		"postgres":          pg,
		"postgresql":        pg, // the scheme of a URL
		"aurora-postgresql": pg, // RDS's name for Aurora
		"mysql":             my,
		"aurora-mysql":      my,
		"mariadb":           my,
		"redis":             rd,
		"valkey":            rd,
		"iam-key":           iamkey.New(cfg, nil),
	}
}
