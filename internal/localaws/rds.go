package localaws

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// rdsVersion is the version of RDS's API, by which its calls are told from
// those to other query services.
const rdsVersion = "2014-10-31"

// DBInstance is what RDS tells of a DB instance, under AWS's names and no more
// than rekey reads. What is empty is left out of the answer.
type DBInstance struct {
	DBInstanceIdentifier                  string
	DBInstanceArn                         string // AddDBInstance sets it
	Engine                                string
	Endpoint                              *Endpoint `xml:",omitempty"` // nil: RDS is creating it
	DBClusterIdentifier                   string    `xml:",omitempty"`
	ReadReplicaSourceDBInstanceIdentifier string    `xml:",omitempty"`
	ReadReplicaSourceDBClusterIdentifier  string    `xml:",omitempty"`
}

// Endpoint is where an instance answers.
type Endpoint struct {
	Address string
	Port    int
}

// DBCluster is what RDS tells of a DB cluster, like DBInstance.
type DBCluster struct {
	DBClusterIdentifier         string
	DBClusterArn                string // AddDBCluster sets it
	Engine                      string
	Endpoint                    string   `xml:",omitempty"`
	ReaderEndpoint              string   `xml:",omitempty"`
	CustomEndpoints             []string `xml:"CustomEndpoints>member,omitempty"`
	Port                        int      `xml:",omitempty"`
	ReplicationSourceIdentifier string   `xml:",omitempty"`
}

// AddDBInstance adds an instance, or replaces the one of that identifier, and
// returns its ARN.
func (s *Server) AddDBInstance(i DBInstance) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.DBInstanceIdentifier = strings.ToLower(i.DBInstanceIdentifier)
	i.DBInstanceArn = s.arn("rds", "db:"+i.DBInstanceIdentifier)
	s.instances[i.DBInstanceIdentifier] = i
	return i.DBInstanceArn
}

// AddDBCluster does the same with a cluster.
func (s *Server) AddDBCluster(c DBCluster) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.DBClusterIdentifier = strings.ToLower(c.DBClusterIdentifier)
	c.DBClusterArn = s.arn("rds", "cluster:"+c.DBClusterIdentifier)
	s.clusters[c.DBClusterIdentifier] = c
	return c.DBClusterArn
}

func (s *Server) rdsOperations() map[string]operation {
	return map[string]operation{
		"rds.DescribeDBInstances": form(s.describeDBInstances),
		"rds.DescribeDBClusters":  form(s.describeDBClusters),
	}
}

type describeDBInstancesResponse struct {
	XMLName   xml.Name     `xml:"http://rds.amazonaws.com/doc/2014-10-31/ DescribeDBInstancesResponse"`
	Instances []DBInstance `xml:"DescribeDBInstancesResult>DBInstances>DBInstance"`
	Marker    string       `xml:"DescribeDBInstancesResult>Marker,omitempty"`
	RequestID string       `xml:"ResponseMetadata>RequestId"`
}

func (s *Server) describeDBInstances(_ call, in url.Values) (any, error) {
	page, marker, err := describe(in, "DBInstance", s.instances, s.arn("rds", "db:"))
	if err != nil {
		return nil, err
	}
	return describeDBInstancesResponse{Instances: page, Marker: marker, RequestID: newUUID()}, nil
}

type describeDBClustersResponse struct {
	XMLName   xml.Name    `xml:"http://rds.amazonaws.com/doc/2014-10-31/ DescribeDBClustersResponse"`
	Clusters  []DBCluster `xml:"DescribeDBClustersResult>DBClusters>DBCluster"`
	Marker    string      `xml:"DescribeDBClustersResult>Marker,omitempty"`
	RequestID string      `xml:"ResponseMetadata>RequestId"`
}

func (s *Server) describeDBClusters(_ call, in url.Values) (any, error) {
	page, marker, err := describe(in, "DBCluster", s.clusters, s.arn("rds", "cluster:"))
	if err != nil {
		return nil, err
	}
	return describeDBClustersResponse{Clusters: page, Marker: marker, RequestID: newUUID()}, nil
}

// describe answers with what has the identifier or ARN in the form, or without
// one with a page of all. AWS leaves the form of a marker open: here it is the
// last identifier of the page before.
func describe[T any](in url.Values, kind string, all map[string]T, arn string) (page []T, marker string, err error) {
	if id := in.Get(kind + "Identifier"); id != "" {
		one, ok := all[strings.ToLower(strings.TrimPrefix(id, arn))]
		if !ok {
			return nil, "", rdsNotFound(kind, id)
		}
		return []T{one}, "", nil
	}
	size := 100
	if text := in.Get("MaxRecords"); text != "" {
		if size, err = strconv.Atoi(text); err != nil || size < 20 || size > 100 {
			return nil, "", rdsInvalid("MaxRecords must be 20 to 100")
		}
	}
	for key := range in {
		if strings.HasPrefix(key, "Filters.") {
			return nil, "", rdsInvalid("localaws knows no filters")
		}
	}
	ids := slices.Sorted(maps.Keys(all))
	ids = slices.DeleteFunc(ids, func(id string) bool { return id <= in.Get("Marker") })
	if len(ids) > size {
		ids, marker = ids[:size], ids[size-1]
	}
	for _, id := range ids {
		page = append(page, all[id])
	}
	return page, marker, nil
}

// rdsNotFound is DBInstanceNotFound or, as AWS has it, DBClusterNotFoundFault.
func rdsNotFound(kind, id string) error {
	code := kind + "NotFound"
	if kind == "DBCluster" {
		code += "Fault"
	}
	return &apiError{status: http.StatusNotFound, code: code, message: fmt.Sprintf("%s %s not found.", kind, id)}
}

func rdsInvalid(message string) error {
	return &apiError{code: "InvalidParameterValue", message: message}
}
