// Package redis rotates the passwords of Redis 6 and later and of Valkey: those of
// ACL users, the user default among them. It is for people who list it in a
// registry; what the strategies do is in package rotators/database.
//
// # What a value says
//
// The fields of every database value, in a JSON object or a URL. The username must
// be there, and is "default" where clients send a password alone. The dbname is for
// readers: users are the same in all databases of a server. Every connection uses
// TLS with a verified certificate unless the value says "ssl": false, also where a
// URL starts with redis: and not with rediss:, because a password that meant to be
// protected must not be sent in the clear. Where it is meant to, a JSON object says
// so best, since clients refuse URLs with parameters they do not know.
//
// # Several servers
//
// Redis replicates data and no users. So the field nodes lists every server that
// is to accept the password, replicas and a cluster's other nodes, as
// "a:6379,b:6379" or a JSON array; host may be among them. A login is then one at
// each, in that order. A change first has all accept the new password beside those
// before, then has the servers themselves use it towards each other, and only then
// has each let go of the old one: wherever it breaks off there is a password that
// all accept. A primary that has more replicas than the value lists is refused, and
// so is a cluster with more nodes. Sentinels keep logins of their own, which are
// not touched: give them a user of their own.
//
// # What is changed
//
// Passwords reach the server as SHA-256 hashes, in one ACL SETUSER, which the
// server applies whole or not at all; a user's rights stay as they are. A user that
// needs no password (nopass) is refused. Where it is the rotated user with whom
// servers log in to their primary (masteruser, masterauth), masterauth becomes the
// new password, and with the user default so does requirepass once the old one is
// let go. These two the server must have as they are; it keeps them out of MONITOR,
// and since Redis 6.2 out of SLOWLOG.
//
// A change must outlive a restart: it is stored by ACL SAVE where there is an ACL
// file, else by CONFIG REWRITE. Whether that works is tried before anything is
// changed. Managed services, such as ElastiCache and MemoryDB, allow neither; their
// users are changed by AWS's API, not by this rotator.
//
// Who makes the change, the user itself or an admin, needs the rights
// +info +acl|getuser +acl|setuser +acl|list +acl|save +config|get +config|set
// +config|rewrite, in a cluster also +cluster|info.
package redis

import (
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// Options changes how the rotator reaches servers.
type Options struct {
	// Dial makes network connections; nil: a net.Dialer. It is called once per
	// login and server, with network "tcp" and the host name as the value spells it, or
	// in the later logins of a step the address that the first one reached.
	Dial database.DialFunc
}

// New returns the rotator for Redis and Valkey. The options may be nil.
//
// cfg is there because every database's New has it. No call to AWS is made.
//
// New switches off the log of go-redis, which is the whole process's.
func New(_ aws.Config, o *Options) rotators.Rotator { return database.New(engine(o)) }

func engine(o *Options) database.Engine {
	return database.Engine{
		Name:     "Redis",
		Engines:  []string{"redis", "rediss", "valkey", "valkeys"}, // the schemes with an s are for TLS
		Port:     6379,
		MaxUser:  512, // Redis has no limit; longer names are mistakes
		Length:   32,
		Alphabet: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._",
		Nodes:    true,
		Overlap:  true,
		Open:     newConnector(o).open,
	}
}
