package attacks

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
)

// zone is a DNS server. Names that it does not know do not exist.
type zone struct {
	address string

	mu    sync.Mutex
	names map[string]*name
}

// name is a host name, and how often its address was asked for.
type name struct {
	answer func(look int) answer // look is 0 the first time
	looks  int
}

// answer is where a name leads: to addresses, by way of another name or at once.
type answer struct {
	cname     string // "": none
	addresses []string
}

// to has a name lead to the same addresses always.
func to(addresses ...string) func(int) answer {
	return func(int) answer { return answer{addresses: addresses} }
}

// rebind has a name lead to first for so many looks, and from then on to then.
func rebind(first answer, looks int, then answer) func(int) answer {
	return func(look int) answer {
		if look < looks {
			return first
		}
		return then
	}
}

func newZone() (*zone, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	z := &zone{address: conn.LocalAddr().String(), names: map[string]*name{}}
	go func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(z.reply(query[:n]), from)
		}
	}()
	return z, nil
}

// dial is a net.Resolver's Dial.
func (z *zone) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "udp", z.address)
}

// set says where a name leads.
func (z *zone) set(host string, answer func(look int) answer) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[strings.ToLower(host)] = &name{answer: answer}
}

// Types of records, and the code of a name that does not exist (RFC 1035, 4.1.1 and 3.2.2).
const (
	typeA, typeCNAME = 1, 5
	noSuchName       = 3
)

// reply answers one query, as RFC 1035 has it.
func (z *zone) reply(query []byte) []byte {
	const header = 12
	if len(query) < header {
		return nil
	}
	var labels []string
	end := header
	for end < len(query) && query[end] != 0 {
		n := int(query[end])
		if end+1+n > len(query) {
			return nil
		}
		labels = append(labels, string(query[end+1:end+1+n]))
		end += 1 + n
	}
	if end += 5; end > len(query) { // the empty label, the type and the class
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end-4:])
	reply := append([]byte{query[0], query[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, query[header:end]...)

	z.mu.Lock()
	defer z.mu.Unlock()
	known := z.names[strings.ToLower(strings.Join(labels, "."))]
	if known == nil {
		reply[3] = noSuchName
		return reply
	}
	a := known.answer(known.looks)
	if kind == typeA {
		known.looks++
	}
	add := func(owner []byte, kind uint16, data []byte) {
		reply[7]++
		reply = append(reply, owner...)
		reply = binary.BigEndian.AppendUint16(reply, kind)
		reply = append(reply, 0, 1, 0, 0, 0, 0) // of the Internet, for no time
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)))
		reply = append(reply, data...)
	}
	owner := []byte{0xc0, header} // the name in the question
	if a.cname != "" {
		target := wire(a.cname)
		add(owner, typeCNAME, target)
		owner = target
	}
	for _, address := range a.addresses {
		if kind == typeA {
			add(owner, typeA, net.ParseIP(address).To4())
		}
	}
	return reply
}

// wire writes a name as messages have it.
func wire(host string) (out []byte) {
	for label := range strings.SplitSeq(host, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0)
}
