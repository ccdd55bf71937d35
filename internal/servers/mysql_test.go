package servers

import (
	"strings"
	"testing"
)

func TestMariaDBRunsAndLogHearsOthersOnly(t *testing.T) {
	s, err := MariaDB(t.Context(), MySQLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if err := s.Exec(t.Context(), "CREATE USER quiet IDENTIFIED BY 'silence'", "SELECT nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a failing statement: %v", err)
	}
	if err := s.Login(t.Context(), "quiet", "silence"); err != nil {
		t.Error(err)
	}
	if err := s.Login(t.Context(), "quiet", "noise"); !MySQLRefused(err) {
		t.Errorf("a wrong password: %v", err)
	}
	if log := s.Log(); strings.Contains(log, "silence") || !strings.Contains(log, "quiet@127.0.0.1") {
		t.Errorf("log: %s", log)
	}
	if !strings.Contains(s.Version, "MariaDB") {
		t.Errorf("version %q", s.Version)
	}
}
