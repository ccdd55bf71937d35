package rotators

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	h, err := ParseHosts(" *.RDS.amazonaws.com, db.example.com. ,10.0.0.0/8,192.0.2.7,fd00::/8,2001:db8::1,::ffff:198.51.100.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"shop.c1a2.eu-west-1.rds.amazonaws.com": true, "SHOP.rds.amazonaws.com.": true, "db.example.com": true, "DB.example.com.": true,
		"rds.amazonaws.com": false, ".rds.amazonaws.com": false, "evilrds.amazonaws.com": false, "a.rds.amazonaws.com.evil.test": false,
		"a.db.example.com": false, "example.com": false, "": false, "10.1.2.3": false,
	} {
		if h.Name(name) != want {
			t.Errorf("the name %q: %v, want %v", name, !want, want)
		}
	}
	for address, want := range map[string]bool{
		"10.255.0.1": true, "::ffff:10.0.0.1": true, "11.0.0.1": false, "192.0.2.7": true, "192.0.2.8": false, "198.51.100.1": true,
		"fd12::1": true, "fd12::1%eth0": true, "fe80::1": false, "2001:db8::1": true, "2001:db8::2": false, "169.254.169.254": false,
	} {
		if h.Address(netip.MustParseAddr(address)) != want {
			t.Errorf("the address %s: %v, want %v", address, !want, want)
		}
	}
	if h.All() {
		t.Error("a list with entries holds every place")
	}
	if all, err := ParseHosts(" "); err != nil || !all.All() || !all.Name("evil.test") || !all.Address(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("no list: %v", err)
	}
	for _, text := range []string{
		"*", "*.", "*example.com", "a.*.example.com", "10.0.0.1/8", "::ffff:10.0.0.0/104", "10.0.0", "127.1", "0x7f.1", "2130706433", "db:5432", "http://db", "a..b", ",", "a,,b", "a b", "fe80::1%eth0", "db/8",
	} {
		if _, err := ParseHosts(text); err == nil || !strings.Contains(err.Error(), "is no host name") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestGenerated(t *testing.T) {
	const alphabet = "abcdefghijABCDEFGHIJ0123456789-_"
	for range 100 {
		for _, p := range []PasswordPolicy{{}, {Length: 12}, {Exclude: "-_0"}, {Only: "abcdefghijABCDEFGHIJ0123456789"}} {
			password, err := p.Generate(32, alphabet)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Generated(password, 32, alphabet); err != nil {
				t.Errorf("%+v made %q: %v", p, password.Reveal(), err)
			}
		}
	}
	for password, want := range map[string]string{
		"attacker1": "9 characters", "abcdefghijABCDEFGHIJ0123456789-é": "in no generated password", "abcdefghijabcdefghijabcdefghij01": "lacks a class", "": "0 characters",
	} {
		if err := (PasswordPolicy{}).Generated(NewSecret(password), 32, alphabet); !IsPermanent(err) || !strings.Contains(err.Error(), want) || password != "" && strings.Contains(err.Error(), password) {
			t.Errorf("%q: %v, want a permanent error with %q", password, err, want)
		}
	}
}
