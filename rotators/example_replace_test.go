package rotators_test

import (
	"fmt"

	"github.com/rekeyhq/rekey/rotators"
)

// Change one field, and nothing else of what the owner wrote.
func ExampleSecret_Replace() {
	value := rotators.NewSecret(`{ "username": "app", "password": "old", "port": 5432.0 }`)
	next, err := value.Replace("password", rotators.NewSecret("new"))
	fmt.Println(next, err)
	fmt.Println(next.Reveal())
	// Output:
	// [secret] <nil>
	// { "username": "app", "password": "new", "port": 5432.0 }
}
