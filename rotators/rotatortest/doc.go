// Package rotatortest checks that a rotator keeps the promises the methods of
// rotators.Rotator make. Every rotator of rekey runs it, and yours should:
//
//	func TestConformance(t *testing.T) {
//		rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
//			vendor := startVendor(t)
//			return rotatortest.Harness{
//				Rotator: acme.New(w),
//				Value:   vendor.FirstValue(),
//				Fields:  []string{"password"},
//				Accepts: vendor.Accepts,
//			}
//		})
//	}
//
// startVendor is yours: the real thing if it can be started in a test, else a
// small server that answers as the vendor documents. See examples/acme for a
// rotator in a module of its own, with such a test.
//
// # How it works
//
// The rotator runs inside the engine that ships. Its calls to the outside go
// through a [Wire], which counts them, and crashes the process, so to speak,
// before and after each one in turn: from there on nothing leaves the Wire and
// nothing comes back, and what happens next is a retry. What the rotator keeps
// in its own fields survives such a crash, though in a new process it would
// not; StepsAtOnce and TwoSecrets are there for what rotators keep.
//
// A check that passes is a real pass: nothing in here waits by sleeping, or
// depends on chance. A check that cannot apply says so in the test's log, by
// what the [Harness] declares, or because no step makes an outside call and every
// value is accepted before it and after it (a signing key, say), never by the
// rotator's name.
//
// # What it checks, and what each check proves
//
// On every error that comes out of any check or crash: it holds no secret, in
// none of the spellings that programs commonly use (Go, JSON, SQL, URL, base64,
// hexadecimal), neither in its text nor in what %+v and %#v print of it and of
// the errors it wraps; the secrets are the values the store holds and what
// Lookup returned. It is no panic. And where the connection broke, it is not
// marked Refused.
//
//   - Rotates: the four steps end with a new value that the target accepts.
//   - RotatesAgain: three rotations in a row do, each to a new value.
//   - ChangesOnlyItsFields: no byte of the value outside Fields has changed.
//   - CreateLeavesCurrentWorking: what readers get works after Create.
//   - CreateAgain: Create runs again after its value was lost, and what the
//     first run left at the target is gone in the end.
//   - EveryStepTwice: each step succeeds a second time, and so do all four after
//     the rotation is over.
//   - StepsAtOnce: while one invocation of createSecret, setSecret or
//     finishSecret stands before one of its outside calls, each in turn, another
//     takes the same step. Some stored value is accepted then, and running the
//     steps again finishes: of two Creates that mint, neither removes what the other
//     one is about to store.
//   - AcceptedWhenDeclared: a truth table of two rotations, the second within
//     the grace of the first. After each step, every value the store holds is
//     accepted, or refused, as Overlap declares; a failure prints the table.
//     With Overlap, readers' value always is accepted, and so is the previous
//     one, until Retire or the next rotation. Without, the previous one is
//     refused from Set on. A value that is only stored is refused, unless Keys
//     says that Create mints. The rotation within a grace retires what is older
//     first.
//   - Retires (where Grace says that something outlives a promotion): with no
//     grace, the old value is refused and the current one accepted as soon as the
//     rotation is over; Retire succeeds again when what it retires is gone.
//   - RetiresAfterItsGrace (likewise): three rotations in a row, each old value
//     retired when its grace is over. Before, it is accepted if Overlap says so,
//     and afterwards refused. What Retire leaves behind is not in the way of the
//     next rotation.
//   - TestRefusesAWrongValue: Test's error for a wrong secret is marked Refused,
//     and the account works on.
//   - OddBytes: Test of a secret with quotes, escapes, control characters and a
//     line end fails, and no error shows it.
//   - DryTest: Test works with no Create and no Set before it.
//   - OutageIsNotRefusal: with the target out of reach, no step's error is
//     marked Refused, Test fails, and Set does unless its work is done.
//   - RejectsUnknownOptions: Create rejects a key in rekey:options that it does
//     not know, with a Permanent error, and changes nothing.
//   - TwoSecrets (Another): the steps of two secrets, taken in turn by one
//     rotator, end as they would alone.
//   - AnotherAccount (Another): a pending value that names another account does
//     not change that account.
//   - BorrowedPower (Lookup): with a current value that is wrong, and nobody's
//     word that the admin may act for the secret, the rotation fails and the
//     target has not changed.
//   - Crashes: after a crash before and after every outside call of a rotation and
//     of the retirement after it, the store's included, some stored value is
//     accepted, with Overlap the one that readers get; the retry finishes, what
//     readers get is usable, what had to be retired is refused. No stray is left,
//     and there were never more live credentials than MaxKeys.
//
// [Harness].Usable adds to all this that a value works for what readers do
// with it, wherever readers get it: a twin user may log in and yet lack a
// right.
//
// # What it cannot check
//
// That what the Wire is not given to is not used; that a value is random; what
// the rotator logs; races inside the rotator's memory (run it with -race).
package rotatortest
