package postgres

import (
	"strings"
	"testing"
)

// A quoted name is one identifier to a server that reads it by the rules of SQL,
// and the name it stands for is the one that was given.
func FuzzQuoteName(f *testing.F) {
	f.Add(`app`)
	f.Add(`o"brien"; DROP ROLE postgres; --`)
	f.Add(`back\slash 'x' $1 %I`)
	f.Fuzz(func(t *testing.T, name string) {
		quoted, err := quoteName(name)
		if err != nil {
			if name != "" && !strings.ContainsRune(name, 0) {
				t.Errorf("%q is refused: %v", name, err)
			}
			return
		}
		inside, ok := strings.CutPrefix(quoted, `"`)
		inside, also := strings.CutSuffix(inside, `"`)
		if !ok || !also || strings.Count(inside, `"`)%2 != 0 || strings.ReplaceAll(inside, `""`, `"`) != name {
			t.Errorf("%q is quoted as %s", name, quoted)
		}
		if strings.Contains(strings.ReplaceAll(inside, `""`, ``), `"`) {
			t.Errorf("%q is quoted as %s, which ends early", name, quoted)
		}
	})
}
