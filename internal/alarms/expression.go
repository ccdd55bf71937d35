package alarms

import (
	"fmt"
	"strconv"
	"strings"
)

// evaluate works out an expression of CloudWatch's metric math. Of its functions it
// knows IF and FILL with a number, and of its operators + - and >. there is false if
// a value that it needs is missing.
func evaluate(text string, values map[string]float64) (value float64, there bool, err error) {
	p := &expression{rest: text, values: values}
	value, there, err = p.comparison()
	if err == nil && strings.TrimSpace(p.rest) != "" {
		err = fmt.Errorf("%q is not understood", p.rest)
	}
	return value, there, err
}

type expression struct {
	rest   string
	values map[string]float64
}

// accept takes a sign if it is next.
func (p *expression) accept(sign string) bool {
	rest, ok := strings.CutPrefix(strings.TrimSpace(p.rest), sign)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *expression) comparison() (float64, bool, error) {
	a, there, err := p.sum()
	if err != nil || !p.accept(">") {
		return a, there, err
	}
	b, bThere, err := p.sum()
	if a > b {
		return 1, there && bThere, err
	}
	return 0, there && bThere, err
}

func (p *expression) sum() (float64, bool, error) {
	v, there, err := p.term()
	for err == nil {
		sign := 1.0
		if p.accept("-") {
			sign = -1
		} else if !p.accept("+") {
			return v, there, nil
		}
		var w float64
		var wThere bool
		w, wThere, err = p.term()
		v, there = v+sign*w, there && wThere
	}
	return v, there, err
}

func (p *expression) term() (float64, bool, error) {
	p.rest = strings.TrimSpace(p.rest)
	n := 0
	for n < len(p.rest) && (p.rest[n] >= 'a' && p.rest[n] <= 'z' || p.rest[n] >= 'A' && p.rest[n] <= 'Z' || p.rest[n] >= '0' && p.rest[n] <= '9') {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	if !p.accept("(") {
		if number, err := strconv.ParseFloat(word, 64); err == nil {
			return number, true, nil
		}
		v, there := p.values[word]
		if word == "" {
			return 0, false, fmt.Errorf("%q is not understood", p.rest)
		}
		return v, there, nil
	}
	var arguments []float64
	var are []bool
	for {
		v, there, err := p.comparison()
		if err != nil {
			return 0, false, err
		}
		arguments, are = append(arguments, v), append(are, there)
		if p.accept(")") {
			break
		}
		if !p.accept(",") {
			return 0, false, fmt.Errorf("%q is not understood", p.rest)
		}
	}
	switch {
	case word == "FILL" && len(arguments) == 2:
		if are[0] {
			return arguments[0], true, nil
		}
		return arguments[1], are[1], nil
	case word == "IF" && len(arguments) == 3:
		if arguments[0] != 0 {
			return arguments[1], are[0] && are[1], nil
		}
		return arguments[2], are[0] && are[2], nil
	}
	return 0, false, fmt.Errorf("the function %s of %d is not understood", word, len(arguments))
}
