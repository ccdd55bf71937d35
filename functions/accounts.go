package functions

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/rotators"
)

// accounts knows how AWS is called in the account of a secret: in the
// function's own with the function's credentials, in another by a role there.
// Credentials are kept until they expire, for as long as the process lives.
type accounts struct {
	cfg      aws.Config
	role     string // its name in every other account, with its path; "": there is none
	external string // the id that the role's trust policy may ask for; "": none

	mu      sync.Mutex
	roles   map[string]aws.CredentialsProvider // by the role's ARN
	clients map[string]*secretsmanager.Client  // by the account; "": the function's own
}

// roleName is a role's name, with its path if it has one.
var roleName = regexp.MustCompile(`^([\w+=,.@-]+/)*[\w+=,.@-]{1,64}$`)

// externalID is what STS takes for an external id, by its API reference, but for the
// length: 2 to 1224 characters.
var externalID = regexp.MustCompile(`^[\w+=,.@:/-]+$`)

func newAccounts(cfg aws.Config, getenv func(string) string) (*accounts, error) {
	role, external := getenv("REKEY_ROLE_NAME"), getenv("REKEY_ROLE_EXTERNAL_ID")
	if role != "" && !roleName.MatchString(role) {
		return nil, rotators.Permanent(fmt.Errorf("the environment variable REKEY_ROLE_NAME is %q: set it to a role's name, or path/name, without the rest of its ARN", role))
	}
	if external != "" && (!externalID.MatchString(external) || len(external) < 2 || len(external) > 1224) {
		return nil, rotators.Permanent(fmt.Errorf("the environment variable REKEY_ROLE_EXTERNAL_ID is %q: set it to 2 to 1224 letters, digits and +=,.@:/-_", external))
	}
	return &accounts{cfg: cfg, role: role, external: external, roles: map[string]aws.CredentialsProvider{}, clients: map[string]*secretsmanager.Client{}}, nil
}

// secrets returns the client of Secrets Manager in the account that an ARN is
// of. Clients are kept, because each has connections of its own, and one that is
// open already saves every step a TLS handshake.
func (a *accounts) secrets(ctx context.Context, id string) *secretsmanager.Client {
	cfg, account := a.cfg.Copy(), ""
	if credentials := a.credentials(ctx, id); credentials != nil {
		cfg.Credentials, account = credentials, parse(id).AccountID
		if a.role == "" {
			return secretsmanager.NewFromConfig(cfg) // it will only say so, of this secret
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[account] == nil {
		a.clients[account] = secretsmanager.NewFromConfig(cfg)
	}
	return a.clients[account]
}

// keys returns the client of KMS in the account that an ARN is of.
func (a *accounts) keys(ctx context.Context, id string) *kms.Client {
	return kms.NewFromConfig(a.config(ctx, id))
}

// config returns what to call AWS with in the account that an ARN is of. What is
// no ARN is of the function's own.
func (a *accounts) config(ctx context.Context, id string) aws.Config {
	cfg := a.cfg.Copy()
	if credentials := a.credentials(ctx, id); credentials != nil {
		cfg.Credentials = credentials
	}
	return cfg
}

// credentials returns those for the account that an ARN is of; nil if it is the
// function's own. Where there is no role, the first call with these credentials fails, so that
// the step's error and its log say so.
func (a *accounts) credentials(ctx context.Context, id string) aws.CredentialsProvider {
	there, here := parse(id), function(ctx)
	if there.AccountID == here.AccountID || there.AccountID == "" || here.AccountID == "" {
		return nil
	}
	if a.role == "" {
		return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, rotators.Permanent(fmt.Errorf("%s is of account %s and this function of account %s: set its environment variable REKEY_ROLE_NAME to the name of a role of account %s that it may assume", id, there.AccountID, here.AccountID, there.AccountID))
		})
	}
	role := arn.ARN{Partition: there.Partition, Service: "iam", AccountID: there.AccountID, Resource: "role/" + a.role}.String()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roles[role] == nil {
		assume := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(a.cfg), role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "rekey"
			if a.external != "" {
				o.ExternalID = &a.external
			}
		})
		a.roles[role] = aws.NewCredentialsCache(assume)
	}
	return a.roles[role]
}

// emulated is the account in the ARN of every function that AWS's emulator of Lambda's
// runtime runs (aws-lambda-runtime-interface-emulator, internal/lambda/rie/handlers.go), and so of
// those that sam local invoke runs. SAM says that it does by AWS_SAM_LOCAL=true.
const emulated = "012345678912"

// function returns the ARN of the function that runs; the zero ARN if Lambda has
// not said, or if an emulator says it that knows no account.
func function(ctx context.Context) arn.ARN {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok {
		return arn.ARN{}
	}
	its := parse(lc.InvokedFunctionArn)
	if its.AccountID == emulated && os.Getenv("AWS_SAM_LOCAL") == "true" {
		return arn.ARN{}
	}
	return its
}

// parse returns the zero ARN for what is none.
func parse(id string) arn.ARN {
	a, _ := arn.Parse(id)
	return a
}
