package rotatortest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/rekeyhq/rekey/internal/rotation"
)

// truth is what the table holds for one value at one instant.
type truth int

const (
	either truth = iota // the contract leaves it open
	accepted
	refused
)

func (a truth) String() string { return [...]string{"either", "accepted", "refused"}[a] }

// instant is one column of the table.
type instant struct {
	name string
	rows []cell // one per value the store holds, oldest first
}

type cell struct{ want, got truth }

// acceptedWhenDeclared takes two rotations, the second within the grace of the
// first, retires what is left, and looks at every value after every step.
func acceptedWhenDeclared(t *testing.T, newHarness maker) error {
	if targetless(t, newHarness) {
		return nil
	}
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{}, withGrace("1h"))
	tooMany := tr.watchKeys(ctx)
	var table []instant
	look := func(name string, n int, after rotation.Step) error {
		col := instant{name: name}
		for i, value := range tr.store.Values() {
			ok, err := tr.Accepts(ctx, value)
			if err != nil {
				return fmt.Errorf("asking the target: %w", err)
			}
			c := cell{want: tr.declared(n, i, after), got: refused}
			if ok {
				c.got = accepted
			}
			col.rows = append(col.rows, c)
		}
		table = append(table, col)
		return tr.look(ctx, after)
	}

	err := look("before", 0, rotation.FinishSecret)
	for n := 1; n <= 2 && err == nil; n++ {
		if n > 1 {
			tr.begin()
		}
		for step := rotation.CreateSecret; step <= rotation.FinishSecret && err == nil; step++ {
			if err = tr.step(ctx, step); err != nil {
				err = fmt.Errorf("rotation %d, %s: %w", n, step, err)
				break
			}
			name := strings.TrimSuffix(step.String(), "Secret")
			err = look(fmt.Sprintf("%s %d", name, n), n, step)
		}
	}
	if err == nil && tr.retires() {
		if err = tr.graceIsOver(ctx); err == nil {
			err = look("retire", 2, rotation.RetireStep)
		}
	}
	if err == nil {
		err = tooMany()
	}
	if err != nil {
		return fmt.Errorf("%w\n\n%s", err, render(table))
	}
	for _, col := range table {
		for _, c := range col.rows {
			if c.want != either && c.want != c.got {
				overlap := "no overlap"
				if tr.Overlap {
					overlap = "an overlap"
				}
				return fmt.Errorf("the Harness declares %s, and what the target accepts differs where marked:\n\n%s", overlap, render(table))
			}
		}
	}
	return nil
}

// declared says what must be known of value i after a step of rotation n. Value
// n is the one that rotation makes.
func (tr *trial) declared(n, i int, after rotation.Step) truth {
	switch i {
	case n: // the new one
		switch {
		case after >= rotation.SetSecret:
			return accepted
		case tr.Keys != nil:
			return either // minted, and its target may take it at once
		default:
			return refused
		}
	case n - 1: // what readers get, and then the previous one
		if after == rotation.CreateSecret || tr.Overlap && after != rotation.RetireStep {
			return accepted
		}
		return refused
	default: // older
		if after == rotation.CreateSecret && tr.Overlap && !tr.retires() {
			return either // Set is what makes room
		}
		return refused
	}
}

// look checks at an instant what is no single cell.
func (tr *trial) look(ctx context.Context, after rotation.Step) error {
	if err := tr.noStrays(ctx); err != nil {
		return err
	}
	if after < rotation.FinishSecret && after >= rotation.SetSecret && !tr.Overlap {
		return nil // the gap
	}
	name, current := tr.store.Current()
	if ok, err := tr.Accepts(ctx, current); err != nil || !ok {
		return err // the table tells
	}
	return tr.serves(ctx, "what readers get, version "+name, current)
}

// render prints the table, with a mark at what is not as declared.
func render(table []instant) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	rows := 0
	for _, col := range table {
		_, _ = fmt.Fprintf(w, "\t%s", col.name)
		rows = max(rows, len(col.rows))
	}
	_, _ = fmt.Fprintln(w)
	for i := range rows {
		_, _ = fmt.Fprintf(w, "value %d", i)
		for _, col := range table {
			text := ""
			if i < len(col.rows) {
				c := col.rows[i]
				text = c.got.String()
				if c.want != either && c.want != c.got {
					text += " (!)"
				}
			}
			_, _ = fmt.Fprintf(w, "\t%s", text)
		}
		_, _ = fmt.Fprintln(w)
	}
	_ = w.Flush()
	return b.String()
}
