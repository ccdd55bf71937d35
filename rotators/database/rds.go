package database

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/rotators"
)

const (
	// maxSources is how many steps there may be from a database to where it is
	// written: a cluster's member, which is a replica of a replica of a replica
	// of another, and one to spare.
	maxSources = 6
	// maxCNAMEs is how many names may stand for an endpoint, one for the other.
	maxCNAMEs = 8
)

// RDS returns a Locator that asks Amazon RDS, in the region of cfg and in the
// account of the secret. Until it is asked it does nothing.
//
// An identifier and a host in one value must agree: the host must be an
// endpoint of what the identifier names, or a CNAME of one. A Place's Writer is
// always the endpoint itself, because that is what an admin's login is compared
// with, and what certificates and IAM tokens are made for.
func RDS(cfg aws.Config) Locator {
	return &rdsLocator{cfg: cfg, lookupCNAME: net.DefaultResolver.LookupCNAME}
}

type rdsLocator struct {
	cfg         aws.Config
	lookupCNAME func(ctx context.Context, host string) (string, error)
}

// rdsNode is a DB instance or a DB cluster.
type rdsNode struct {
	rdsName
	endpoints []string // what it answers at; the first is where it is written, if it can be
	port      int
	engine    string
	source    rdsName // what it copies, or the cluster it belongs to; zero: it is written itself
}

// rdsName names a DB instance or a DB cluster.
type rdsName struct {
	kind string // "instance" or "cluster"
	id   string // its identifier or its ARN
}

func (n rdsName) String() string { return fmt.Sprintf("the DB %s %q", n.kind, n.id) }

// Locate implements Locator.
func (l *rdsLocator) Locate(ctx context.Context, value rotators.Secret) (Place, error) {
	fields := map[string]string{}
	for _, name := range []string{"host", "port", "dbInstanceIdentifier", "dbClusterIdentifier"} {
		field, err := value.Field(name)
		if err != nil {
			return Place{}, err
		}
		fields[name] = field.Reveal()
	}
	host, instance, cluster := fields["host"], fields["dbInstanceIdentifier"], fields["dbClusterIdentifier"]

	var node rdsNode
	var err error
	switch {
	case instance != "":
		node, err = l.describe(ctx, rdsName{"instance", instance})
	case cluster != "":
		node, err = l.describe(ctx, rdsName{"cluster", cluster})
	case host != "":
		node, err = l.byHost(ctx, host)
	default:
		err = rotators.Permanent(errors.New(`the value does not say where the database is: add the field "host", "dbInstanceIdentifier" or "dbClusterIdentifier"`))
	}
	if err == nil && host != "" && instance+cluster != "" {
		err = l.answersAt(ctx, node, host)
	}
	if err != nil {
		return Place{}, err
	}
	if instance != "" && cluster != "" && !strings.EqualFold(node.source.id, lastPart(cluster)) {
		return Place{}, rotators.Permanent(fmt.Errorf("%s does not belong to the cluster %q: correct one of the fields \"dbInstanceIdentifier\" and \"dbClusterIdentifier\", or remove it", node, cluster))
	}
	if port := fields["port"]; port != "" && port != strconv.Itoa(node.port) {
		return Place{}, rotators.Permanent(fmt.Errorf("the field \"port\" is not the port of %s, which is %d: correct it, or remove it", node, node.port))
	}
	place := Place{Host: cmp.Or(host, node.endpoints[0]), Port: node.port, Engine: node.engine}

	writer := node
	for range maxSources {
		if writer.source == (rdsName{}) {
			place.Writer, place.WriterPort = writer.endpoints[0], writer.port
			return place, nil
		}
		if writer, err = l.describe(ctx, writer.source); err != nil {
			return Place{}, fmt.Errorf("looking for where %s is written: %w", node, err)
		}
	}
	return Place{}, rotators.Permanent(fmt.Errorf("looking for where %s is written: %d sources lead to no end", node, maxSources))
}

// describe asks RDS what it knows of an instance or a cluster.
func (l *rdsLocator) describe(ctx context.Context, name rdsName) (rdsNode, error) {
	if a, err := arn.Parse(name.id); err == nil && a.Region != l.cfg.Region {
		return rdsNode{}, rotators.Permanent(fmt.Errorf("%s is in another region than this function, which is in %s: rotate the secret in %s", name, l.cfg.Region, a.Region))
	}
	node, err := l.describeNode(ctx, name)
	var noInstance *types.DBInstanceNotFoundFault
	var noCluster *types.DBClusterNotFoundFault
	switch {
	case errors.As(err, &noInstance) || errors.As(err, &noCluster):
		return rdsNode{}, rotators.Permanent(fmt.Errorf("RDS has nothing in this account and region that is %s: correct what names it, or %s (%w)", name, addIdentifier, err))
	case err != nil:
		return rdsNode{}, fmt.Errorf("asking RDS for %s: %w", name, err)
	case len(node.endpoints) == 0:
		return rdsNode{}, rotators.Permanent(fmt.Errorf("%s has no endpoint: wait until RDS has created it, then rotate again", node))
	}
	return node, nil
}

// describeNode returns a node without endpoints if there are none yet.
func (l *rdsLocator) describeNode(ctx context.Context, name rdsName) (rdsNode, error) {
	client := rds.NewFromConfig(account.Config(ctx, l.cfg))
	if name.kind == "cluster" {
		out, err := client.DescribeDBClusters(ctx, &rds.DescribeDBClustersInput{DBClusterIdentifier: &name.id})
		if err != nil {
			return rdsNode{}, err
		}
		if len(out.DBClusters) != 1 {
			return rdsNode{}, fmt.Errorf("RDS describes %d clusters of that name", len(out.DBClusters))
		}
		return clusterNode(out.DBClusters[0]), nil
	}
	out, err := client.DescribeDBInstances(ctx, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: &name.id})
	if err != nil {
		return rdsNode{}, err
	}
	if len(out.DBInstances) != 1 {
		return rdsNode{}, fmt.Errorf("RDS describes %d instances of that name", len(out.DBInstances))
	}
	return instanceNode(out.DBInstances[0]), nil
}

func instanceNode(i types.DBInstance) rdsNode {
	node := rdsNode{rdsName: rdsName{"instance", aws.ToString(i.DBInstanceIdentifier)}, engine: aws.ToString(i.Engine)}
	if i.Endpoint != nil && aws.ToString(i.Endpoint.Address) != "" {
		node.endpoints, node.port = []string{*i.Endpoint.Address}, int(aws.ToInt32(i.Endpoint.Port))
	}
	switch {
	case aws.ToString(i.DBClusterIdentifier) != "":
		node.source = rdsName{"cluster", *i.DBClusterIdentifier}
	case aws.ToString(i.ReadReplicaSourceDBInstanceIdentifier) != "":
		node.source = rdsName{"instance", *i.ReadReplicaSourceDBInstanceIdentifier}
	case aws.ToString(i.ReadReplicaSourceDBClusterIdentifier) != "":
		node.source = rdsName{"cluster", *i.ReadReplicaSourceDBClusterIdentifier}
	}
	return node
}

func clusterNode(c types.DBCluster) rdsNode {
	node := rdsNode{rdsName: rdsName{"cluster", aws.ToString(c.DBClusterIdentifier)}, engine: aws.ToString(c.Engine), port: int(aws.ToInt32(c.Port))}
	if aws.ToString(c.Endpoint) != "" {
		node.endpoints = append(node.endpoints, *c.Endpoint)
		if aws.ToString(c.ReaderEndpoint) != "" {
			node.endpoints = append(node.endpoints, *c.ReaderEndpoint)
		}
		node.endpoints = append(node.endpoints, c.CustomEndpoints...)
	}
	if source := aws.ToString(c.ReplicationSourceIdentifier); source != "" {
		node.source = rdsName{"cluster", source}
		// An Aurora cluster may copy an instance of RDS for PostgreSQL or MySQL.
		if a, err := arn.Parse(source); err == nil && strings.HasPrefix(a.Resource, "db:") {
			node.source.kind = "instance"
		}
	}
	return node
}

// answersAt checks that host is an endpoint of node, or of a member of that
// cluster, or a CNAME of one: else a password would go where the identifier does
// not point.
func (l *rdsLocator) answersAt(ctx context.Context, node rdsNode, host string) error {
	if node.has(host) {
		return nil
	}
	stranger := rotators.Permanent(fmt.Errorf("the field \"host\" is no endpoint of %s, which answers at %s: correct it, or the identifier", node, strings.Join(node.endpoints, ", ")))
	endpoint, err := l.endpoint(ctx, host)
	if err == nil && !node.has(endpoint.host) {
		if node.kind != "cluster" || endpoint.kind != "instance" {
			return stranger
		}
		var member rdsNode
		member, err = l.describe(ctx, endpoint.rdsName)
		if err == nil && !(member.has(endpoint.host) && member.source == node.rdsName) {
			return stranger
		}
	}
	if rotators.IsPermanent(err) {
		return stranger
	}
	return err
}

func (n rdsNode) has(host string) bool {
	return slices.ContainsFunc(n.endpoints, func(e string) bool { return strings.EqualFold(e, host) })
}

// byHost finds what answers at a host.
func (l *rdsLocator) byHost(ctx context.Context, host string) (rdsNode, error) {
	endpoint, err := l.endpoint(ctx, host)
	if err != nil {
		return rdsNode{}, err
	}
	if endpoint.region != l.cfg.Region {
		return rdsNode{}, rotators.Permanent(fmt.Errorf("the host %q is in another region than this function, which is in %s: rotate the secret in %s", host, l.cfg.Region, endpoint.region))
	}
	if endpoint.custom {
		return l.byCustomEndpoint(ctx, endpoint.host)
	}
	node, err := l.describe(ctx, endpoint.rdsName)
	if err == nil && !node.has(endpoint.host) {
		err = rotators.Permanent(fmt.Errorf("the host %q is no endpoint of %s, though it is named like one, so it may be of another account: %s", host, endpoint.rdsName, addIdentifier))
	}
	return node, err
}

func (l *rdsLocator) byCustomEndpoint(ctx context.Context, host string) (rdsNode, error) {
	pages := rds.NewDescribeDBClustersPaginator(rds.NewFromConfig(account.Config(ctx, l.cfg)), &rds.DescribeDBClustersInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return rdsNode{}, fmt.Errorf("asking RDS which cluster has the endpoint %q: %w", host, err)
		}
		for _, c := range page.DBClusters {
			if node := clusterNode(c); node.has(host) {
				return node, nil
			}
		}
	}
	return rdsNode{}, rotators.Permanent(fmt.Errorf("RDS has no cluster with the endpoint %q in this account and region: %s", host, addIdentifier))
}

const addIdentifier = `add to the value the field "dbInstanceIdentifier" or "dbClusterIdentifier" of the one it means`

// rdsEndpoint is what the name of an endpoint tells.
type rdsEndpoint struct {
	rdsName        // a custom endpoint's identifier is its own
	host    string // the endpoint itself, where a CNAME led to it
	region  string
	custom  bool
}

// endpoint finds the endpoint that a host name is, or is a CNAME of.
func (l *rdsLocator) endpoint(ctx context.Context, host string) (rdsEndpoint, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return rdsEndpoint{}, rotators.Permanent(fmt.Errorf("the host %q is an address, by which RDS knows no database: %s", host, addIdentifier))
	}
	// A resolver may lead one CNAME further or to the last one at once, which
	// for an endpoint is the name of a virtual machine: so look after each step.
	name := strings.TrimSuffix(host, ".")
	for range maxCNAMEs {
		if endpoint, ok := parseEndpoint(name); ok {
			return endpoint, nil
		}
		canonical, err := l.lookupCNAME(ctx, name)
		if err != nil {
			return rdsEndpoint{}, fmt.Errorf("resolving the host %q: %w", host, err)
		}
		canonical = strings.TrimSuffix(canonical, ".")
		if strings.EqualFold(canonical, name) {
			break
		}
		name = canonical
	}
	return rdsEndpoint{}, rotators.Permanent(fmt.Errorf("the host %q is no endpoint of a DB instance or cluster and no CNAME of one: %s", host, addIdentifier))
}

// parseEndpoint reads the names RDS gives:
//
//	INSTANCE.HASH.REGION.rds.amazonaws.com
//	CLUSTER.cluster-HASH.REGION.rds.amazonaws.com, .cluster-ro-HASH.
//	NAME.cluster-custom-HASH.
//
// In China they end in .cn, and there rds and the region change places in the
// names given today. An RDS Proxy has a name of that kind too, but is no
// database.
func parseEndpoint(host string) (rdsEndpoint, bool) {
	host = strings.ToLower(host)
	parts, ok := rdsLabels(host)
	if !ok {
		return rdsEndpoint{}, false
	}
	e := rdsEndpoint{rdsName: rdsName{"instance", parts[0]}, host: host, region: parts[2]}
	switch hash := parts[1]; {
	case strings.HasPrefix(hash, "cluster-"):
		e.kind, e.custom = "cluster", strings.HasPrefix(hash, "cluster-custom-")
	case strings.Contains(hash, "-"):
		return rdsEndpoint{}, false
	}
	return e, true
}

// rdsLabels are the three labels before .rds.amazonaws.com, in lower case: a name, a
// hash and a region. ok is false of a host that Amazon RDS names neither so nor, in
// China, in another order.
func rdsLabels(host string) (labels []string, ok bool) {
	host, china := strings.CutSuffix(host, ".cn")
	host, ok = strings.CutSuffix(host, ".amazonaws.com")
	labels = strings.Split(host, ".")
	if !ok || len(labels) != 4 || slices.Contains(labels, "") {
		return nil, false
	}
	if china && labels[2] == "rds" {
		labels[2], labels[3] = labels[3], labels[2]
	}
	return labels[:3], labels[3] == "rds"
}

// isRDS reports whether a host name is one that Amazon RDS gives: to a DB instance, a
// cluster or a proxy.
func isRDS(host string) bool {
	_, ok := rdsLabels(strings.ToLower(strings.TrimSuffix(host, ".")))
	return ok
}

// lastPart is the identifier in an ARN, or what is no ARN as it is.
func lastPart(id string) string {
	return id[strings.LastIndexByte(id, ':')+1:]
}
