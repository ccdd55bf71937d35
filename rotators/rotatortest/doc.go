// Package rotatortest checks that a rotator keeps the promises the methods of
// rotators.Rotator make. Every rotator of rekey runs it, and yours should:
//
//	func TestConformance(t *testing.T) {
//		vendor := startVendor(t)
//		rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
//			return rotatortest.Harness{
//				Rotator: acme.New(w),
//				Value:   rotators.NewSecret(`{"user":"app","password":"` + vendor.NewUser("app") + `"}`),
//				Fields:  []string{"password"},
//				Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return vendor.Accepts(v), nil },
//			}
//		})
//	}
//
// The rotator runs inside the engine that ships. Its calls to the outside go
// through a [Wire], which counts them, and crashes the process, so to speak,
// before and after each one in turn: from there on nothing leaves the Wire and
// nothing comes back, and what happens next is a retry in a new process. At
// every such point some credential the store holds must be accepted, and the
// retry must finish.
//
// A check that passes is a real pass: nothing in here waits by sleeping, or
// depends on chance. Whether a check applies is told by what the Harness declares
// and by what went through the Wire, never by the rotator's name: where a whole
// rotation makes no outside call and any value is accepted, nothing can be refused.
package rotatortest
