package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	tagging "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/internal/inventory"
	"github.com/rekeyhq/rekey/internal/paramstore"
)

func planCommand() *command {
	return &command{
		name: "plan",
		args: "[flags]",
		what: "show which parameters are rotated, when, and what is misconfigured",
		help: `
Shows the parameters of Parameter Store that are tagged for rekey, in the order in
which they come due, and why those that are misconfigured cannot be rotated. It
decides with the planner's own code, reads no value and changes nothing. The table
is on stdout, the progress on stderr.

  AWS_PROFILE=prod rekey plan

A parameter that is due is rotated at the planner's next tick, within an hour. The
exit status is 1 if AWS could not be asked; what is misconfigured does not change
it. With --json, stdout gets one object:

  {"parameters": [{"arn", "name", "rotator", "every", "window", "stage", "paused",
  "version", "changed", "due", "deadline", "overdue", "problem"}, ...],
  "managed", "due", "overdue", "paused", "misconfigured"}

Times are in UTC. What is not known, or not so, is left out or empty.

It acts on the AWS that your environment names (AWS_PROFILE, AWS_REGION,
AWS_ENDPOINT_URL, ...). It needs tag:GetResources, ssm:GetParameters and
ssm:DescribeParameters there.`,
		run: plan,
	}
}

func plan(ctx context.Context, c *call) int {
	flags := new(flag.FlagSet)
	asJSON := flags.Bool("json", false, "write JSON, for machines")
	stage := flags.String("stage", callersStage(), stageUsage)
	if _, status, ok := c.parse(flags, 0); !ok {
		return status
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return c.fail(err)
	}
	now := c.now()
	told := newProgress(c.stderr)
	parameters, err := survey(ctx, cfg, *stage, now, told)
	told.clear()
	if err != nil {
		return c.fail(err)
	}
	f := foresee(parameters, now)
	write := f.writeTable
	if *asJSON {
		write = f.writeJSON
	}
	if err := write(c.stdout); err != nil {
		return c.fail(err)
	}
	return succeeded
}

// survey finds the parameters of a stage and all that the planner and the worker would
// find wrong with them, in their way.
func survey(ctx context.Context, cfg aws.Config, stage string, now time.Time, told *progress) ([]*inventory.Parameter, error) {
	all, err := inventory.Tagged(ctx, tagging.NewFromConfig(cfg), stage, told.part("found", 0))
	if err != nil {
		return nil, err
	}
	var parameters []*inventory.Parameter
	for i := range all {
		parameters = append(parameters, &all[i])
	}
	client := ssm.NewFromConfig(cfg)
	done, tell := 0, told.part("looking", len(parameters))
	unlimited := rate.NewLimiter(rate.Inf, 0) // the SDK tries again what is throttled
	looker := &inventory.Looker{Client: client, Reads: unlimited, Writes: unlimited}
	for chunk := range slices.Chunk(parameters, inventory.LookAtOnce) {
		if err := looker.Look(ctx, chunk); err != nil {
			return nil, err
		}
		done += len(chunk)
		tell(done)
	}
	// Deleted, and still in the index of tags.
	parameters = slices.DeleteFunc(parameters, func(p *inventory.Parameter) bool { return p.Version == 0 && p.Problem == nil })
	return parameters, describe(ctx, client, parameters, now, told)
}

// describe finds out what is wrong with parameters that are due and shows only in
// their description: what the worker, which asks for that too, would refuse.
func describe(ctx context.Context, client *ssm.Client, parameters []*inventory.Parameter, now time.Time, told *progress) error {
	byName := map[string]*inventory.Parameter{}
	var names []string
	for _, p := range parameters {
		if f := foreseen(p, now); f.state == isDue {
			byName[p.Name] = p
			names = append(names, p.Name)
		}
	}
	done, tell := 0, told.part("describing what is due", len(names))
	for chunk := range slices.Chunk(names, paramstore.DescribeAtOnce) {
		described, err := paramstore.Describe(ctx, client, chunk)
		if err != nil {
			return err
		}
		for _, d := range described {
			if p := byName[d.Name]; p != nil && p.Version == d.Base {
				p.Problem = d.Refused
			}
		}
		done += len(chunk)
		tell(done)
	}
	return nil
}

// foresight is what the planner will do.
type foresight struct {
	Parameters []foreseenParameter `json:"parameters"`

	Managed       int `json:"managed"`
	Due           int `json:"due"` // those of now, in an open window
	Overdue       int `json:"overdue"`
	Paused        int `json:"paused"`
	Misconfigured int `json:"misconfigured"`

	now time.Time
}

type foreseenParameter struct {
	ARN      string    `json:"arn"`
	Name     string    `json:"name"`
	Rotator  string    `json:"rotator"`
	Every    string    `json:"every"`
	Window   string    `json:"window"`
	Stage    string    `json:"stage"`
	Paused   bool      `json:"paused"`
	Version  int64     `json:"version"`
	Changed  time.Time `json:"changed,omitzero"`
	Due      time.Time `json:"due,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	Overdue  bool      `json:"overdue"`
	Problem  string    `json:"problem,omitempty"`

	state state
	opens time.Time // when its window opens, if that is what it waits for
}

// state is what happens to a parameter next, in the order in which they are shown.
type state int

const (
	isDue    state = iota // at the next tick
	isClosed              // as its window opens: its time has passed
	isLater               // when it is due
	isPaused
	isMisconfigured
)

func foresee(parameters []*inventory.Parameter, now time.Time) *foresight {
	f := &foresight{Parameters: []foreseenParameter{}, Managed: len(parameters), now: now}
	for _, p := range parameters {
		one := foreseen(p, now)
		f.Parameters = append(f.Parameters, one)
		switch one.state {
		case isDue:
			f.Due++
		case isPaused:
			f.Paused++
		case isMisconfigured:
			f.Misconfigured++
		}
		if one.Overdue {
			f.Overdue++
		}
	}
	slices.SortFunc(f.Parameters, func(a, b foreseenParameter) int {
		// Those with a time are in its order: the oldest wait may be for a window.
		return cmp.Or(cmp.Compare(max(a.state, isLater), max(b.state, isLater)), a.Due.Compare(b.Due), cmp.Compare(a.Name, b.Name))
	})
	return f
}

// foreseen says what the planner will do about a parameter. Overdue is only what
// rekey should have rotated: nothing that is paused or misconfigured.
func foreseen(p *inventory.Parameter, now time.Time) foreseenParameter {
	f := foreseenParameter{
		ARN: p.ARN, Name: p.Name, Rotator: p.Rotator, Every: p.Every, Window: p.Window,
		Stage: p.Schedule.Stage, Paused: p.Schedule.Paused, Version: p.Version, Changed: p.Changed.UTC(),
	}
	switch {
	case p.Problem != nil:
		f.state, f.Problem = isMisconfigured, p.Problem.Error()
		return f // its schedule may be one that has no times
	case p.Schedule.Paused:
		f.state = isPaused
		return f
	}
	f.Due, f.Deadline = p.Due().Truncate(time.Second), p.Schedule.Deadline(p.Changed).Truncate(time.Second)
	f.Overdue = p.Overdue(now)
	if _, open := p.Schedule.Window.Open(now); now.Before(p.Due()) {
		f.state = isLater
	} else if !open {
		f.state, f.opens = isClosed, p.Schedule.Window.Opens(now)
	}
	return f
}

func (f *foresight) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(f)
}

func (f *foresight) writeTable(w io.Writer) error {
	var table bytes.Buffer
	columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "NAME\tROTATOR\tEVERY\tWINDOW\tCHANGED\tDUE")
	for _, p := range f.Parameters {
		changed := "-"
		if !p.Changed.IsZero() {
			changed = about(f.now.Sub(p.Changed))
		}
		fmt.Fprintln(columns, strings.Join([]string{
			p.Name, p.Rotator, cmp.Or(p.Every, "-"), cmp.Or(p.Window, "any time"), changed, f.when(p),
		}, "\t"))
	}
	columns.Flush()
	// The reasons come in between only now, because they are in no columns.
	var out bytes.Buffer
	for i, line := range strings.SplitAfter(table.String(), "\n") {
		if len(f.Parameters) > 0 {
			out.WriteString(line)
		}
		if i > 0 && i <= len(f.Parameters) && f.Parameters[i-1].Problem != "" {
			for reason := range strings.SplitSeq(f.Parameters[i-1].Problem, "\n") {
				fmt.Fprintf(&out, "    %s\n", reason)
			}
		}
	}
	fmt.Fprintf(&out, "%s managed: %s due, %s overdue, %s paused, %s misconfigured\n",
		number(f.Managed), number(f.Due), number(f.Overdue), number(f.Paused), number(f.Misconfigured))
	_, err := out.WriteTo(w)
	return err
}

// far is from when on a date says more than a number of days.
const far = 30 * 24 * time.Hour

// when says when a parameter is rotated.
func (f *foresight) when(p foreseenParameter) string {
	text := "now"
	switch until := p.Due.Sub(f.now); {
	case p.state == isMisconfigured:
		return "misconfigured"
	case p.state == isPaused:
		return "paused"
	case p.state == isClosed:
		text = "window opens in " + about(p.opens.Sub(f.now))
	case p.state == isLater && until >= far:
		return p.Due.Format(time.DateOnly)
	case p.state == isLater:
		return "in " + about(until)
	}
	if p.Overdue {
		text += ", overdue by " + about(f.now.Sub(p.Deadline))
	}
	return text
}

// about writes a length of time in its largest unit. Nobody plans by seconds.
func about(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dm", max(1, d/time.Minute))
}
