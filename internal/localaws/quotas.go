package localaws

import "time"

// Quotas are how many calls a second Parameter Store answers; what comes above
// is refused with ThrottlingException. 0: any number.
//
// AWS documents the read quota as shared by its three operations and leaves open
// whether the others are; here each quota is one pool. An idle second is saved
// up, no more.
type Quotas struct {
	ParameterReads   float64 // GetParameter, GetParameters, GetParametersByPath
	ParameterWrites  float64 // PutParameter, LabelParameterVersion, UnlabelParameterVersion, DescribeParameters, GetParameterHistory
	ParameterDeletes float64 // DeleteParameter, DeleteParameters
}

// DefaultQuotas are what an account has that asked for nothing else ("AWS
// General Reference", Systems Manager endpoints and quotas).
func DefaultQuotas() Quotas {
	return Quotas{ParameterReads: 40, ParameterWrites: 3, ParameterDeletes: 3}
}

// HigherQuotas are those of an account that set
// /ssm/parameter-store/high-throughput-enabled. Its reads are what GetParameters
// is allowed; GetParameter has 10,000 and GetParametersByPath 100.
func HigherQuotas() Quotas {
	return Quotas{ParameterReads: 1000, ParameterWrites: 10, ParameterDeletes: 5}
}

// quota is the pool an operation draws from, "" for none, and its calls a second.
func (q Quotas) quota(service, operation string) (pool string, rate float64) {
	if service != "ssm" {
		return "", 0
	}
	switch operation {
	case "GetParameter", "GetParameters", "GetParametersByPath":
		return "reads", q.ParameterReads
	case "PutParameter", "LabelParameterVersion", "UnlabelParameterVersion", "DescribeParameters", "GetParameterHistory":
		return "writes", q.ParameterWrites
	case "DeleteParameter", "DeleteParameters":
		return "deletes", q.ParameterDeletes
	}
	return "", 0
}

// bucket holds what is left of a quota.
type bucket struct {
	tokens float64
	filled time.Time // when tokens was last right
}

// allow tells whether a call is within its quota, and takes it from there.
func (s *Server) allow(service, operation string, now time.Time) bool {
	pool, rate := s.config.Quotas.quota(service, operation)
	if rate == 0 {
		return true
	}
	most := max(rate, 1)
	b, ok := s.buckets[pool]
	if !ok {
		b = &bucket{tokens: most, filled: now}
		s.buckets[pool] = b
	}
	if passed := now.Sub(b.filled); passed > 0 {
		b.tokens, b.filled = min(most, b.tokens+passed.Seconds()*rate), now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
