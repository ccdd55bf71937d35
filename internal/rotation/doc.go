// Package rotation is the engine: it decides, from the state a version is in
// and the step that was asked for, what to do, and does it through a rotator
// and a store. It is for the functions; rotators never import it.
//
// One table, in plan.go, holds every decision. A store (secretstore,
// paramstore) tells the state and keeps the values. Secrets Manager drives
// [Engine.Step] once per invocation; for a parameter [Engine.Run] takes the
// same steps one after another.
package rotation
