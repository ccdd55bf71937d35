package rotation

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/plan.golden anew")

// The golden file is the table as people review it. A change of the plan shows
// there, or this test fails.
func TestPlanIsTheReviewedOne(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s%-14s%-14s%-14s%s\n", "state", CreateSecret, SetSecret, TestSecret, FinishSecret)
	for state := Unknown; state <= Superseded; state++ {
		row := fmt.Sprintf("%-12s", state)
		for step := CreateSecret; step <= FinishSecret; step++ {
			row += fmt.Sprintf("%-14s", plan[state][step])
		}
		fmt.Fprintln(&b, strings.TrimRight(row, " "))
	}
	if *update {
		if err := os.WriteFile("testdata/plan.golden", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("the plan is\n%s\nand testdata/plan.golden says\n%s\nIf the change is meant: go test ./internal/rotation -run Plan -update", got, want)
	}
}

func TestParseStep(t *testing.T) {
	for name, want := range map[string]Step{
		"createSecret": CreateSecret, "setSecret": SetSecret, "testSecret": TestSecret, "finishSecret": FinishSecret,
		"create_secret": CreateSecret, "finish_secret": FinishSecret,
	} {
		if got, err := ParseStep(name); err != nil || got != want {
			t.Errorf("ParseStep(%q) = %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "create", "CreateSecret", "createSecret ", "deleteSecret"} {
		if _, err := ParseStep(name); err == nil {
			t.Errorf("ParseStep(%q) is accepted", name)
		}
	}
}

func TestCovers(t *testing.T) {
	const secret, parameter, top = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/db/app-AbCdEf", "arn:aws:ssm:us-east-1:000000000000:parameter/shop/db", "arn:aws:ssm:us-east-1:000000000000:parameter/token"
	for _, c := range []struct {
		list, id string
		want     bool
	}{
		{"shop/", secret, true}, {"shop/db/app", secret, true}, {"shop/db", secret, false}, {"sho", secret, false}, {"other shop/db/", secret, true}, {"", secret, false},
		{"ssm:/shop/", parameter, true}, {"ssm:/shop/db", parameter, true}, {"ssm:shop/", parameter, false}, {"ssm:token", top, true}, {"ssm:/token", top, false}, {"ssm:/", top, false}, {"ssm:/", parameter, true},
		// A name says of what: a secret and a parameter may share one.
		{"/shop/db", parameter, false}, {"token", top, false}, {"ssm:shop/db/app", secret, false}, {parameter, parameter, true}, {secret, secret, true},
	} {
		if got := covers(c.list, c.id); got != c.want {
			t.Errorf("covers(%q, %s) = %v", c.list, c.id, got)
		}
	}
}
