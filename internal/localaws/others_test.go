package localaws_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

func TestRDS(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	client := rds.NewFromConfig(c.config)
	arn := c.AddDBInstance(localaws.DBInstance{
		DBInstanceIdentifier: "Replica", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: "replica.example", Port: 5433}, ReadReplicaSourceDBInstanceIdentifier: "source",
	})
	c.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "creating", Engine: "postgres"})
	for _, id := range []string{"replica", "REPLICA", arn} {
		out, err := client.DescribeDBInstances(t.Context(), &rds.DescribeDBInstancesInput{DBInstanceIdentifier: &id})
		if err != nil || len(out.DBInstances) != 1 {
			t.Fatalf("%s: %v, %v", id, out, err)
		}
		i := out.DBInstances[0]
		if *i.DBInstanceIdentifier != "replica" || *i.DBInstanceArn != arn || *i.Endpoint.Address != "replica.example" || *i.Endpoint.Port != 5433 ||
			*i.ReadReplicaSourceDBInstanceIdentifier != "source" || i.DBClusterIdentifier != nil {
			t.Errorf("%s: %+v", id, i)
		}
	}
	out, err := client.DescribeDBInstances(t.Context(), &rds.DescribeDBInstancesInput{DBInstanceIdentifier: aws.String("creating")})
	if err != nil || out.DBInstances[0].Endpoint != nil {
		t.Errorf("an instance that is being created has an endpoint: %v, %v", out, err)
	}
	_, err = client.DescribeDBInstances(t.Context(), &rds.DescribeDBInstancesInput{DBInstanceIdentifier: aws.String("none")})
	want[*rdstypes.DBInstanceNotFoundFault](t, "an unknown instance", err)
	_, err = client.DescribeDBClusters(t.Context(), &rds.DescribeDBClustersInput{DBClusterIdentifier: aws.String("none")})
	want[*rdstypes.DBClusterNotFoundFault](t, "an unknown cluster", err)

	for n := range 45 {
		c.AddDBCluster(localaws.DBCluster{DBClusterIdentifier: fmt.Sprintf("c%02d", n), Endpoint: "w", ReaderEndpoint: "r", CustomEndpoints: []string{"x", "y"}, Port: 5432})
	}
	var ids []string
	pages := rds.NewDescribeDBClustersPaginator(client, &rds.DescribeDBClustersInput{MaxRecords: aws.Int32(20)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range page.DBClusters {
			if *one.Endpoint != "w" || *one.ReaderEndpoint != "r" || strings.Join(one.CustomEndpoints, " ") != "x y" || *one.Port != 5432 {
				t.Fatalf("%+v", one)
			}
			ids = append(ids, *one.DBClusterIdentifier)
		}
	}
	if len(ids) != 45 || ids[0] != "c00" || ids[44] != "c44" || len(c.Calls()) != 9 {
		t.Errorf("%v in %d calls", ids, len(c.Calls()))
	}
}

func TestParameters(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	client := ssm.NewFromConfig(c.config)
	c.AddParameter(localaws.Parameter{Name: "/app/admin", Type: "SecureString", Value: "value", Tags: map[string]string{"b": "2", "a": "1"}})
	for decrypt, want := range map[bool]bool{true: true, false: false} {
		out, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/app/admin"), WithDecryption: &decrypt})
		if err != nil || (*out.Parameter.Value == "value") != want || *out.Parameter.ARN != "arn:aws:ssm:us-east-1:000000000000:parameter/app/admin" {
			t.Errorf("decrypted %v: %+v, %v", decrypt, out, err)
		}
	}
	_, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/none")})
	want[*ssmtypes.ParameterNotFound](t, "an unknown parameter", err)
	tags := &ssm.ListTagsForResourceInput{ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: aws.String("/app/admin")}
	out, err := client.ListTagsForResource(t.Context(), tags)
	if err != nil || len(out.TagList) != 2 || *out.TagList[0].Key != "a" || *out.TagList[0].Value != "1" {
		t.Errorf("%+v, %v", out, err)
	}
	tags.ResourceId = aws.String("/none")
	_, err = client.ListTagsForResource(t.Context(), tags)
	want[*ssmtypes.InvalidResourceId](t, "an unknown parameter's tags", err)
}
