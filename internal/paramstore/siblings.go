package paramstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/rotators"
)

// siblingFields are the fields of a value that can be parameters of their own
// beside the password's: all that a rotator reads, and as many as one call takes.
var siblingFields = []string{"engine", "host", "port", "username", "dbname", "ssl", "masterarn", "dbInstanceIdentifier", "dbClusterIdentifier", "nodes"}

// siblings reads the parameters beside the password's once.
func (s *Store) siblings(ctx context.Context) (connection string, err error) {
	if s.connection == "" {
		s.connection, err = Siblings(ctx, s.client, s.parameter.Name)
	}
	return s.connection, err
}

// Siblings reads the parameters beside the one of that name, which holds the
// password, and returns them as a JSON object: what rotation.Tags holds as the
// Connection in place of rotation.Siblings.
func Siblings(ctx context.Context, client *ssm.Client, name string) (string, error) {
	slash := strings.LastIndex(name, "/")
	if slash < 0 {
		return "", rotators.Permanent(errors.New(`the tag rekey:connection is "siblings", and the parameter is in no path in which there could be any: write a URL there, like postgres://app@db.example.com:5432/shop`))
	}
	path := name[:slash+1]
	var names []string
	for _, field := range siblingFields {
		if path+field != name {
			names = append(names, path+field)
		}
	}
	out, err := client.GetParameters(ctx, &ssm.GetParametersInput{Names: names, WithDecryption: aws.Bool(true)})
	if err != nil {
		return "", fmt.Errorf("reading the parameters beside it, for its connection: %w", err)
	}
	fields := map[string]any{}
	for _, p := range out.Parameters {
		var value any = aws.ToString(p.Value)
		field := strings.TrimPrefix(aws.ToString(p.Name), path)
		if field == "ssl" { // a boolean in a value
			if err := json.Unmarshal([]byte(aws.ToString(p.Value)), &value); err != nil {
				return "", rotators.Permanent(fmt.Errorf("the parameter %sssl is neither true nor false: correct it", path))
			}
		}
		fields[field] = value
	}
	if fields["username"] == nil {
		return "", rotators.Permanent(fmt.Errorf(`the tag rekey:connection is "siblings", and there is no parameter %susername: make one for each part of the connection, among %s`, path, strings.Join(siblingFields, ", ")))
	}
	text, err := json.Marshal(fields)
	return string(text), err
}
