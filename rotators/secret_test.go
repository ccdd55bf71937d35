package rotators

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestASecretNeverPrints(t *testing.T) {
	s := NewSecret("hunter2")
	type holder struct {
		Public Secret
		hidden Secret
		nested struct{ p *Secret }
		many   []Secret
		byName map[string]Secret
	}
	h := holder{Public: s, hidden: s, many: []Secret{s}, byName: map[string]Secret{"k": s}}
	h.nested.p = &s
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%c", "%U"} {
		for _, v := range []any{s, &s, h, &h, []any{s, h}, map[Secret2]Secret{}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, s, &s, h)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("m", "s", s, "p", &s, "h", h, "g", slog.GroupValue(slog.Any("s", s)))
	}
	for _, v := range []any{s, &s, h, []Secret{s}, map[string]any{"s": s}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("JSON: %v", err)
		}
		out.Write(text)
	}
	for _, form := range []string{"hunter2", "68756e74657232", "68756E74657232", "104 117 110"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s is printed in:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), placeholder) {
		t.Error("no placeholder is printed")
	}
	if _, err := s.MarshalText(); err == nil {
		t.Error("MarshalText gives something that could be stored")
	}
	if _, err := json.Marshal(map[Secret2]int{{}: 1}); err == nil {
		t.Error("a secret works as a JSON key")
	}
}

// Secret2 is a comparable type that encodes like a Secret: fmt and JSON treat
// map keys in a way of their own.
type Secret2 struct{}

func (Secret2) MarshalText() ([]byte, error) { return Secret{}.MarshalText() }

func TestZeroSecret(t *testing.T) {
	if !NewSecret("").IsZero() || !(Secret{}).IsZero() || NewSecret("x").IsZero() {
		t.Error("only no value is the zero Secret")
	}
	if (Secret{}).Reveal() != "" {
		t.Error("the zero Secret reveals something")
	}
	if !NewSecret("a").Equal(NewSecret("a")) || NewSecret("a").Equal(NewSecret("b")) || NewSecret("a").Equal(Secret{}) {
		t.Error("Equal is wrong")
	}
}

func TestErrors(t *testing.T) {
	base := fmt.Errorf("no such role")
	if !IsPermanent(fmt.Errorf("step: %w", Permanent(base))) || IsPermanent(base) || Permanent(nil) != nil {
		t.Error("Permanent")
	}
	if !IsRefused(fmt.Errorf("step: %w", Refused(base))) || IsRefused(base) || Refused(nil) != nil || IsRefused(Permanent(base)) {
		t.Error("Refused")
	}
	if both := Permanent(Refused(base)); !IsRefused(both) || !IsPermanent(both) || both.Error() != base.Error() {
		t.Error("both")
	}
}
