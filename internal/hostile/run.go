package hostile

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rekeyhq/rekey/rotators"
)

// How long a step has, and how much later than that it may be over on a machine that
// is busy. A login has a third of it.
const (
	stepTime = 6 * time.Second
	late     = 2 * time.Second
	// atOnce is how many servers are met at a time: most of that is waiting.
	atOnce = 16
	// maxText is more than one error may be long: what a server said, and a few sentences.
	maxText = 2 << 10
)

// Run has a rotator's Set meet every server, with and without TLS, and its Test those
// that lie when it is over. Each Set must hear the lie, fail in time, say where, and
// hang up.
// What it says must be fit to be shown. cfg is what the servers have for TLS; the
// rotator must trust it for localhost.
func Run(t *testing.T, r rotators.Rotator, cases []Case, cfg *tls.Config) {
	var all sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, c := range cases {
		for way, cfg := range map[string]*tls.Config{" (TLS)": cfg, "": nil} {
			all.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				for _, problem := range meet(t, r, c, cfg) {
					t.Errorf("%s%s: %s", c.Name, way, problem)
				}
			})
		}
	}
	all.Wait()
}

// Value is a secret for a server on a port of localhost.
func Value(port int, password string, withTLS bool) rotators.Secret {
	text, _ := json.Marshal(map[string]any{"host": "localhost", "port": port, "username": "app", "password": password, "ssl": withTLS})
	return rotators.NewSecret(string(text))
}

func meet(t *testing.T, r rotators.Rotator, c Case, cfg *tls.Config) (problems []string) {
	s := Listen(t, c, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), stepTime)
	defer cancel()
	current := Value(s.Port, Password, cfg != nil)
	deadline := time.Now().Add(stepTime + late)
	var err error
	leaves := strings.HasPrefix(c.Name, "at the goodbye")
	if leaves {
		err = r.Test(ctx, rotators.Rotation{Pending: current})
	} else {
		err = r.Set(ctx, rotators.Rotation{Current: current, Pending: Value(s.Port, "the next password", cfg != nil)})
	}
	if time.Now().After(deadline) {
		problems = append(problems, "it takes longer than the step has")
	}
	if !s.Left(late) {
		problems = append(problems, "the connection is still there")
	} else if !s.Told() {
		problems = append(problems, "nobody has heard the lie")
	}
	if leaves {
		if err != nil {
			problems = append(problems, "a login that worked counts as failed: "+err.Error())
		}
		return problems
	}
	if err == nil {
		return append(problems, "no error")
	}
	text := err.Error()
	if !strings.Contains(text, "localhost:"+strconv.Itoa(s.Port)) {
		problems = append(problems, "the error does not name the server: "+text)
	}
	if rotators.IsRefused(err) {
		problems = append(problems, "it counts as the server's word that the password is wrong: "+text)
	}
	if strings.Contains(text, "panic") || strings.Contains(text, "runtime error") {
		problems = append(problems, "a panic: "+text)
	}
	return append(problems, Shown(text)...)
}

// Shown says what is wrong with a text that is to be shown.
func Shown(text string) (problems []string) {
	var because error
	switch {
	case len(text) > maxText:
		because = errors.New("it is " + strconv.Itoa(len(text)) + " bytes long")
	case !utf8.ValidString(text):
		because = errors.New("it is no UTF-8")
	case strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }):
		because = errors.New("it is not printable")
	case strings.Contains(text, Password):
		because = errors.New("it holds the password")
	default:
		return nil
	}
	return []string{"the error: " + because.Error() + ": " + strconv.Quote(text[:min(len(text), 300)])}
}
