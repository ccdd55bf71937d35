package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/servers"
)

// between is how long a promotion is held back here. On AWS a step is an invocation,
// and some hundred milliseconds to seconds pass between what setSecret and what
// finishSecret changes.
const between = 500 * time.Millisecond

// maxWatch is how long a rotation may take here: one that fails is tried again for
// longer than that. It takes four seconds.
const maxWatch = time.Minute

// pace holds back the calls that promote while somebody watches.
func (d *demo) pace(c localaws.Call) localaws.Fault {
	if d.watching.Load() && c.Operation == "UpdateSecretVersionStage" {
		<-time.After(between)
	}
	return localaws.None
}

// target is a server whose users are rotated while somebody logs in.
type target struct {
	name       string
	login      login // without the user
	accepts    func(ctx context.Context, user, password string) error
	refused    func(error) bool
	create     func(ctx context.Context, user, password string, rights ...string) error
	adminMay   []string // what an admin has to have
	strategies []string
}

// watched rotates users of MariaDB and Redis while rekey watch logs in all the time.
func (d *demo) watched(ctx context.Context) error {
	maria, err := servers.MariaDB(ctx, servers.MySQLOptions{})
	if err != nil {
		return err
	}
	defer maria.Stop()
	redis, err := servers.Redis(ctx, servers.RedisOptions{})
	if err != nil {
		return err
	}
	defer redis.Stop()
	fmt.Printf(`
The same for a private MariaDB on %s:%d and a private Redis on %[1]s:%[3]d,
while "rekey watch" reads each secret and logs in with it all the time, and counts.
Promotions are held back by %v, as on AWS time passes between the steps.

`, maria.Host, maria.Port, redis.Port, between)
	return d.watchAll(ctx, []target{
		{
			name:       "mariadb",
			login:      login{Engine: "mariadb", Host: maria.Host, Port: maria.Port},
			accepts:    maria.Login,
			refused:    servers.MySQLRefused,
			strategies: []string{"single-user", "alternating-users", "overlap"},
			adminMay:   []string{"CREATE USER ON *.*", "SELECT ON mysql.*"},
			create: func(ctx context.Context, user, password string, rights ...string) error {
				err := maria.Exec(ctx, "CREATE USER "+user+" IDENTIFIED BY '"+password+"'")
				for _, right := range rights {
					err = errors.Join(err, maria.Exec(ctx, "GRANT "+right+" TO "+user))
				}
				return err
			},
		},
		{
			name:       "redis",
			login:      login{Engine: "redis", Host: redis.Host, Port: redis.Port},
			accepts:    redis.Login,
			refused:    servers.RedisRefused,
			strategies: []string{"single-user", "overlap"},
			adminMay:   []string{"+@admin", "+info"},
			create: func(ctx context.Context, user, password string, rights ...string) error {
				args := []any{"ACL", "SETUSER", user, "on", ">" + password, "~*", "+@read"}
				for _, right := range rights {
					args = append(args, right)
				}
				_, err := redis.Do(ctx, args...)
				return err
			},
		},
	})
}

func (d *demo) watchAll(ctx context.Context, targets []target) error {
	stop, err := d.function("secret-rotator", func(f localaws.Function) localaws.Function { return f })
	if err != nil {
		return err
	}
	defer func() { _ = stop() }()
	d.watching.Store(true)
	var proofs []error
	for _, t := range targets {
		admin := t.login
		admin.Username, admin.Password = "admin", "the-password-of-admin"
		if err := t.create(ctx, admin.Username, admin.Password, t.adminMay...); err != nil {
			return err
		}
		adminName := "admin/" + t.name
		if _, err := d.secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: &adminName, SecretString: aws.String(admin.String())}); err != nil {
			return err
		}
		for _, strategy := range t.strategies {
			proof, err := d.watchOne(ctx, t, strategy, adminName)
			if err != nil {
				_ = stop() // the log is whole when the process is gone
				return fmt.Errorf("%w\nThe function's log:\n%s", err, d.log.String())
			}
			proofs = append(proofs, proof)
		}
	}
	fmt.Printf("\nDrawn in %s.\n", filepath.Join(d.folder, "watch-*.svg"))
	return errors.Join(proofs...)
}

// watchOne makes a user, whose secret rekey watch then has rotated.
func (d *demo) watchOne(ctx context.Context, t target, strategy, admin string) (proof, err error) {
	l := t.login
	l.Username, l.Password = strings.ReplaceAll(strategy, "-", "_"), firstPassword
	if err := t.create(ctx, l.Username, l.Password); err != nil {
		return nil, err
	}
	name := t.name + "/" + strategy
	secret, err := d.secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{
		Name: &name, SecretString: aws.String(l.String()),
		Tags: []types.Tag{{Key: aws.String("rekey:strategy"), Value: &strategy}, {Key: aws.String("rekey:admin"), Value: &admin}},
	})
	if err != nil {
		return nil, err
	}
	if _, err := d.secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
		SecretId:          secret.ARN,
		RotationLambdaARN: aws.String(d.cloud.FunctionARN("secret-rotator")),
		RotationRules:     &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
		RotateImmediately: aws.Bool(false),
	}); err != nil {
		return nil, err
	}
	if err := d.cloud.Wait(ctx, *secret.ARN); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxWatch)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.folder, "rekey"), "watch", "--rotate",
		"--svg", filepath.Join(d.folder, "watch-"+t.name+"-"+strategy+".svg"), name)
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+d.endpoint, "AWS_REGION="+region, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local")
	drawing, err := cmd.Output()
	if err != nil {
		if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
			err = fmt.Errorf("%w\n%s", err, failed.Stderr)
		}
		return nil, fmt.Errorf("rekey watch: %w", err)
	}
	if err := d.cloud.Wait(ctx, *secret.ARN); err != nil {
		return nil, err
	}
	value, err := d.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: secret.ARN})
	if err != nil {
		return nil, err
	}
	var next login
	if err := json.Unmarshal([]byte(*value.SecretString), &next); err != nil {
		return nil, err
	}
	_, said, _ := strings.Cut(string(drawing), "\nOf ")
	said, _, _ = strings.Cut("Of "+said, "\n")
	fmt.Printf("%s\n  %s\n", name, said)
	proof = prove(next.Username+": the new password logs in", next.Password != l.Password && t.accepts(ctx, next.Username, next.Password) == nil)
	if strategy == "single-user" {
		return errors.Join(proof, prove(l.Username+": the old password is refused", t.refused(t.accepts(ctx, l.Username, l.Password)))), nil
	}
	return errors.Join(proof,
		prove("no login was refused", strings.HasSuffix(said, "none was refused.")),
		prove(l.Username+": for those who have not read the new one yet, the old one logs in", t.accepts(ctx, l.Username, l.Password) == nil)), nil
}
