package template

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// Every intrinsic function, in its short and its long form.
func TestParse(t *testing.T) {
	const text = `
Parameters:
  Name: {Type: String, Default: shop}
  Number: {Type: Number, Default: 3}
  Empty: {Type: CommaDelimitedList, Default: ''}
  List: {Type: CommaDelimitedList, Default: 'a, b'}
Conditions:
  Yes: !Equals [!Ref Number, 3]
  No: !Not [!Condition Yes]
  Both: !And [!Condition Yes, !Not [!Condition No]]
  Either: {'Fn::Or': [{Condition: 'No'}, {Condition: Both}]}
  HasList: !Not [!Equals [!Join ['', !Ref Empty], '']]
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      Plain: [text, 1, 2.5, true]
      Ref: !Ref Name
      Pseudo: !Ref AWS::Region
      List: !Ref List
      Other: !Ref Gone
      Short: !GetAtt Gone.Arn
      Long: {'Fn::GetAtt': [Gone, Arn]}
      Sub: !Sub '${Name}-${AWS::Region}-${Gone.Arn}-${!Literal}'
      SubOwn: !Sub ['${X}/${Name}', {X: !Ref Name}]
      If: !If [Either, a, b]
      IfLong: {'Fn::If': [HasList, a, !Ref Name]}
      Nothing: !If [No, a, !Ref AWS::NoValue]
      Left: [a, !If [No, b, !Ref AWS::NoValue], c]
      Select: !Select [1, !Split [',', 'x,y']]
  Gone:
    Type: AWS::SNS::Topic
    Condition: No
Outputs:
  Url: {Value: !Ref Queue}
  None: {Condition: No, Value: x}
`
	got, err := parse([]byte(text), Options{Pseudo: map[string]string{"AWS::Region": "eu-west-1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &Template{
		Resources: map[string]Resource{"Queue": {"AWS::SQS::Queue", map[string]any{
			"Plain": []any{"text", 1, 2.5, true}, "Ref": "shop", "Pseudo": "eu-west-1", "List": []any{"a", "b"},
			"Other": "Gone.Ref", "Short": "Gone.Arn", "Long": "Gone.Arn", "Sub": "shop-eu-west-1-Gone.Arn-${Literal}", "SubOwn": "shop/shop",
			"If": "a", "IfLong": "shop", "Left": []any{"a", "c"}, "Select": "y",
		}}},
		Outputs: map[string]any{"Url": "Queue.Ref"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%#v\nwant\n%#v", got, want)
	}
	given, err := parse([]byte(text), Options{Parameters: map[string]string{"Number": "4", "Empty": "x"}, Pseudo: map[string]string{"AWS::Region": "r"}, Attribute: func(resource, name string, property func(string) (any, error)) (string, error) {
		list, err := property("List")
		return fmt.Sprint(name, " of ", resource, list), err
	}})
	if err != nil {
		t.Fatal(err)
	}
	p := given.Resources["Queue"].Properties
	if p["If"] != "a" || p["IfLong"] != "a" || p["Nothing"] != "a" || p["Short"] != "Arn of Gone<nil>" || given.Resources["Gone"].Type != "AWS::SNS::Topic" || given.Outputs["None"] != "x" || given.Outputs["Url"] != "Ref of Queue[a b]" {
		t.Errorf("with other parameters: %v", given)
	}
}

// What is not understood is an error: it is never left as it stands.
func TestNotUnderstood(t *testing.T) {
	const head = "Parameters: {P: {Type: String}}\nResources:\n  R:\n    Type: T\n    Properties:\n      X: "
	for value, want := range map[string]string{
		"!Transform x":           "resource R: !Transform [x] is not understood",
		"!Ref Nobody":            "resource R: there is no parameter or resource Nobody",
		"!Sub '${Nobody.Arn}'":   "resource R: there is no parameter or resource Nobody",
		"!Sub '${P'":             "has no end",
		"!If [Nobody, a, b]":     "resource R: there is no condition Nobody",
		"!Select [5, [a]]":       "!Select [5 [a]] is not understood",
		"!Join ['', !Ref P]":     "!Join [ p] is not understood",
		"!FindInMap [A, B, C]":   "!FindInMap [A B C] is not understood",
		"!GetAtt Nobody.Thing":   "resource R: there is no parameter or resource Nobody",
		"{'Fn::Base64': secret}": "!Base64 [secret] is not understood",
	} {
		_, err := parse([]byte(head+value), Options{Parameters: map[string]string{"P": "p"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q in it", value, err, want)
		}
	}
	for name, c := range map[string]struct {
		text string
		o    Options
		want string
	}{
		"no value":     {head + "x", Options{}, "the parameter P has no default and is not given"},
		"another name": {head + "x", Options{Parameters: map[string]string{"P": "p", "Q": "q"}}, "there is no parameter Q"},
		"empty":        {"", Options{}, "it is empty"},
		"a list":       {"[a]", Options{}, "it is no mapping"},
		"no YAML":      {"a: [", Options{}, "yaml: "},
	} {
		if _, err := parse([]byte(c.text), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q in it", name, err, c.want)
		}
	}
}
