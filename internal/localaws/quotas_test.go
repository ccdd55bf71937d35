package localaws_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/localaws"
)

func TestQuotas(t *testing.T) {
	clock := newClock()
	s := newStore(t, localaws.Config{Now: clock.Now, Quotas: localaws.DefaultQuotas()})
	s.AddParameter(localaws.Parameter{Name: "/p", Type: "SecureString", Value: "x"})
	write := func() error { _, err := s.put("/p", "y", overwrite); return err }
	label := func() error { _, err := s.label("/p", 0, "l"); return err }
	history := func() error {
		_, err := s.ssm.GetParameterHistory(t.Context(), &ssm.GetParameterHistoryInput{Name: aws.String("/p")})
		return err
	}
	read := func() error { _, err := s.get("/p"); return err }
	remove := func() error {
		_, err := s.ssm.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("/none")})
		return err
	}
	// answered counts how many calls of a row are not throttled.
	answered := func(calls ...func() error) (n int) {
		t.Helper()
		for _, call := range calls {
			e, _ := errors.AsType[smithy.APIError](call())
			if e == nil || e.ErrorCode() != "ThrottlingException" {
				n++
			} else if e.ErrorMessage() != "Rate exceeded" {
				t.Errorf("throttled with %v", e)
			}
		}
		return n
	}
	if n := answered(write, label, history, write, label); n != 3 {
		t.Errorf("%d writes of one instant are answered", n)
	}
	if n := answered(remove, remove, remove, remove); n != 3 {
		t.Errorf("%d deletes of one instant are answered", n)
	}
	reads := 0
	for range 50 {
		reads += answered(read)
	}
	if reads != 40 {
		t.Errorf("%d reads of one instant are answered", reads)
	}
	clock.Advance(time.Second/3 + 1) // what is refused uses up nothing
	if n := answered(write, write); n != 1 {
		t.Errorf("%d writes are answered a third of a second later", n)
	}
	clock.Advance(time.Hour) // a second is saved up, no more
	if n := answered(write, write, write, write, write); n != 3 {
		t.Errorf("%d writes are answered after an hour", n)
	}
	// A tag is no write, and nothing of Secrets Manager counts.
	s.create()
	if got := s.tags("/p"); got != "" {
		t.Errorf("the tags are %s", got)
	}
	p, err := s.get("/p")
	if err != nil || p.Version != 6 { // five puts were answered
		t.Errorf("it reads as %+v, %v", p, err)
	}
	var throttled []string
	for _, call := range s.Calls() {
		if call.Throttled {
			throttled = append(throttled, call.Operation)
		}
	}
	want := "PutParameter LabelParameterVersion DeleteParameter" + strings.Repeat(" GetParameter", 10) + " PutParameter PutParameter PutParameter"
	if got := strings.Join(throttled, " "); got != want {
		t.Errorf("throttled were %s, want %s", got, want)
	}
}

// A caller that keeps to the quota is never refused.
func TestQuotaIsMet(t *testing.T) {
	clock := newClock()
	s := newStore(t, localaws.Config{Now: clock.Now, Quotas: localaws.HigherQuotas()})
	for i := range 300 {
		if _, err := s.put("/p", fmt.Sprint(i), overwrite); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
		clock.Advance(time.Second / 10)
	}
}

func TestParameterFaults(t *testing.T) {
	var next atomic.Int64
	s := newStore(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
		if call.Operation == "PutParameter" {
			return localaws.Fault(next.Load())
		}
		return localaws.None
	}})
	s.AddParameter(localaws.Parameter{Name: "/p", Type: "SecureString", Value: "1"})
	for _, row := range []struct {
		fault   localaws.Fault
		code    string
		version int64
	}{
		{localaws.RefuseBefore, "AccessDeniedException", 1},
		{localaws.Throttle, "ThrottlingException", 1},
		{localaws.LoseReply, "", 2},
		{localaws.LoseReply, "", 3}, // a put that is tried again makes a version more
	} {
		next.Store(int64(row.fault))
		_, err := s.put("/p", "x", overwrite)
		code := ""
		if e, ok := errors.AsType[smithy.APIError](err); ok {
			code = e.ErrorCode()
		}
		p, readErr := s.get("/p")
		if err == nil || code != row.code || readErr != nil || p.Version != row.version {
			t.Errorf("fault %d: %v, and then version %+v, %v", row.fault, err, p, readErr)
		}
		calls := s.Calls()
		if put := calls[len(calls)-2]; put.Throttled != (row.fault == localaws.Throttle) {
			t.Errorf("fault %d: the call is %+v", row.fault, put)
		}
	}
}
