package rotation

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rekeyhq/rekey/internal/metrics"
	"github.com/rekeyhq/rekey/rotators"
)

// report writes the one line of a step. It is also the step's metrics: the
// _aws member makes it an object of CloudWatch's embedded metric format, and
// its level member keeps Lambda's log filter from dropping it unread.
func (w *work) report(ctx context.Context, start time.Time, took time.Duration, err error) {
	if w.Log == nil {
		return
	}
	level, failed, rotations := slog.LevelInfo, 0, 0
	state, rotator, outcome := "", "unknown", w.action.String()
	if w.attempt != nil {
		state = w.attempt.State.String()
	}
	if w.rotator != "" {
		rotator = w.rotator
	}
	if w.overtaken {
		outcome = "overtaken"
	}
	if w.attempt != nil && w.attempt.Note != "" {
		level = slog.LevelWarn
	}
	if err != nil {
		level, failed, outcome = slog.LevelError, 1, "failed"
	} else if w.action == promote {
		rotations = 1
	}
	attrs := []slog.Attr{
		slog.String("id", w.id),
		slog.String("step", w.step.String()),
		slog.String("state", state),
		slog.String("rotator", rotator),
		slog.String("outcome", outcome),
		slog.Int64("milliseconds", took.Milliseconds()),
		slog.Int("failed", failed),
		slog.Int("rotations", rotations), // that ended with this step
	}
	if w.retired != "" {
		attrs = append(attrs, slog.String("retired", w.retired))
	}
	if w.attempt != nil && w.attempt.Note != "" {
		attrs = append(attrs, slog.String("note", w.attempt.Note))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()), slog.Bool("permanent", rotators.IsPermanent(err)))
		var p *panicked
		if errors.As(err, &p) {
			attrs = append(attrs, slog.String("stack", w.mask.hide(p.stack)))
		}
	}
	attrs = append(attrs, metrics.Attrs(start, [][]string{{}, {"rotator", "step"}},
		metrics.Metric{Name: "milliseconds", Unit: "Milliseconds"},
		metrics.Metric{Name: "failed", Unit: "Count"},
		metrics.Metric{Name: "rotations", Unit: "Count"},
	)...)
	w.Log.LogAttrs(ctx, level, "rotation step", attrs...)
}
