// Package rotators is the seam between rekey and what it rotates: the types a
// rotator is written against, and nothing else. It is for people who write a
// rotator; people who only run rekey need tags (docs/settings.md), not this.
//
// # What a rotator is
//
// A [Rotator] knows one kind of credential: how to make the next value, how to
// have the target accept it, how to prove that it works. It does not know where
// values are stored, which labels they carry, when a rotation is due or what to
// do after a crash. The engine knows that, the same way for every rotator and
// for both Secrets Manager and Parameter Store.
//
// The engine calls the three methods in this order, and may stop and start
// again, in another process, between and inside any of them:
//
//	Create   make the next value              -> the engine stores it as pending
//	Set      have the target accept it
//	Test     prove that it works              -> the engine makes it current
//	Retire   (optional) withdraw the old one
//
// Two rules follow, and the conformance suite in rotatortest checks both:
//
//   - Every method may run again after it succeeded, and after it failed half
//     way. A second Set or Retire finds its work done and returns nil.
//   - Create leaves the current value working. Nothing outside is changed for
//     good before the pending value is stored, because a value that is lost
//     with the process cannot be put right by a retry.
//
// Where somebody else makes the value, a vendor its API keys say, the second rule
// cannot be kept. Package apikey is for that: it finds what a lost Create made.
//
// # Values
//
// A [Secret] is the whole value of a secret, or one field of it. It prints as a
// placeholder under every fmt verb, slog and JSON; [Secret.Reveal] is the one
// way in, so a reviewer can search for it. Change one field with
// [Secret.Replace]: every other byte of the value stays as its owner wrote it.
//
// # Errors
//
// Return a plain error for what may work next time. Wrap it in [Permanent] when
// a person must act first, and in [Refused] when, and only when, the target
// itself said that this credential is wrong: the engine and the password
// strategies change what they do next on that word. A time-out, a refused
// connection, a throttle or a TLS failure is never a refusal.
//
// Never put a value into an error. The engine masks every value it knows about,
// but it cannot know what a vendor's response holds, so leave response bodies
// out.
//
// # Using one
//
// A [Registry] is a map literal in main; its keys are what owners write in the
// rekey:rotator tag or in the engine field of the value:
//
//	lambda.Start(functions.SecretRotator(cfg, rotators.Registry{
//		"postgres": postgres.New(cfg, nil),
//		"acme":     acme.New(http.DefaultTransport),
//	}))
//
// A rotator is tested by rotatortest.Run in about a dozen lines.
package rotators
