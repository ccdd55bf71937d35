package policies

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const text = `
Parameters:
  Admins: {Type: CommaDelimitedList, Default: ''}
Conditions:
  HasAdmins: !Not [!Equals [!Join ['', !Ref Admins], '']]
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties: {QueueName: !Sub '${AWS::StackName}-orders'}
  F:
    Type: AWS::Serverless::Function
    Properties:
      Role: !GetAtt FRole.Arn
  FRole:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument: {Statement: []}
      Policies:
      - PolicyName: all
        PolicyDocument:
          Statement:
            - Sid: Send
              Effect: Allow
              Action: [sqs:SendMessage, sqs:Get*]
              Resource: !GetAtt Queue.Arn
            - !If
              - HasAdmins
              - {Sid: Read, Effect: Allow, Action: ssm:GetParameter, Resource: !Ref Admins}
              - !Ref AWS::NoValue
            - Sid: Write
              Effect: Allow
              Action: ssm:PutParameter
              Resource: {'Fn::Sub': 'arn:${AWS::Partition}:ssm:*:${AWS::AccountId}:parameter/a?/*'}
              Condition:
                StringEquals: {ssm:Overwrite: 'true'}
                'Null': {aws:ResourceTag/Team: 'false'}
                StringLikeIfExists: {kms:ViaService: [ssm.*, sns.*]}
            - Sid: Tag
              Effect: Allow
              Action: ssm:AddTagsToResource
              Resource: '*'
              Condition:
                ForAllValues:StringEquals: {aws:TagKeys: [a, b]}
                Bool: {aws:SecureTransport: true}
            - Sid: Never
              Effect: Deny
              Action: SSM:getParameter
              Resource: '*secret*'
`

func load(t *testing.T, text string, values map[string]string) *Template {
	t.Helper()
	file := filepath.Join(t.TempDir(), "template.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(file, values)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestDecide(t *testing.T) {
	role, err := load(t, text, map[string]string{"Admins": "arn:aws:ssm:us-east-1:000000000000:parameter/x*, arn:of:another"}).Role("F")
	if err != nil {
		t.Fatal(err)
	}
	const queue, parameter = "arn:aws:sqs:us-east-1:000000000000:rekey-orders", "arn:aws:ssm:eu-west-1:000000000000:parameter/"
	tagged := func(more ...string) map[string][]string {
		context := map[string][]string{"SSM:overwrite": {"true"}, "aws:ResourceTag/Team": {""}}
		for i := 0; i < len(more); i += 2 {
			context[more[i]] = []string{more[i+1]}
		}
		return context
	}
	tagging := func(keys ...string) map[string][]string {
		return map[string][]string{"aws:TagKeys": keys, "aws:SecureTransport": {"true"}}
	}
	for _, c := range []struct {
		Access
		by string // the statements that decide; "": none
	}{
		{Access{Action: "sqs:SendMessage", Resource: queue}, "Send"},
		{Access{Action: "SQS:sendmessage", Resource: queue}, "Send"},
		{Access{Action: "sqs:SendMessage", Resource: queue + "s"}, ""},
		{Access{Action: "sqs:SendMessage", Resource: strings.ToUpper(queue)}, ""},
		{Access{Action: "sqs:GetQueueUrl", Resource: queue}, "Send"},
		{Access{Action: "sqs:DeleteMessage", Resource: queue}, ""},
		{Access{Action: "ssm:GetParameter", Resource: "arn:aws:ssm:us-east-1:000000000000:parameter/xyz"}, "Read"},
		{Access{Action: "ssm:GetParameter", Resource: "arn:of:another"}, "Read"},
		{Access{Action: "ssm:GetParameter", Resource: "arn:of:anothers"}, ""},
		{Access{Action: "ssm:GetParameter", Resource: "arn:aws:ssm:us-east-1:000000000000:parameter/x/secret/1"}, "Never"},
		{Access{Action: "ssm:GetParameter", Resource: "a-secret", Granted: true}, "Never"},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c", Context: tagged()}, "Write"},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c/d", Context: tagged("kms:ViaService", "ssm.eu-west-1")}, "Write"},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c", Context: tagged("kms:ViaService", "sqs.eu-west-1")}, ""},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "a/c", Context: tagged()}, ""},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c", Context: tagged("SSM:overwrite", "false")}, ""},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c", Context: map[string][]string{"ssm:Overwrite": {"true"}, "aws:ResourceTag/team": {""}}}, ""},
		{Access{Action: "ssm:PutParameter", Resource: parameter + "ab/c"}, ""},
		{Access{Action: "ssm:AddTagsToResource", Resource: "x", Context: tagging("a")}, "Tag"},
		{Access{Action: "ssm:AddTagsToResource", Resource: "x", Context: tagging("b", "a")}, "Tag"},
		{Access{Action: "ssm:AddTagsToResource", Resource: "x", Context: tagging("b", "c")}, ""},
		{Access{Action: "ssm:AddTagsToResource", Resource: "x", Context: tagging()}, "Tag"},
		{Access{Action: "ssm:AddTagsToResource", Resource: "x", Context: map[string][]string{"aws:TagKeys": {"a"}}}, ""},
	} {
		d := role.Decide(c.Access)
		if got := strings.Join(d.By, " "); got != c.by || d.Denied != (c.by == "Never") || d.Allowed != (c.by != "" && !d.Denied) {
			t.Errorf("%+v: %+v, want %q", c.Access, d, c.by)
		}
	}
	if d := role.Decide(Access{Action: "kms:Decrypt", Resource: "x", Granted: true}); !d.Allowed || len(d.By) > 0 {
		t.Errorf("what the resource's policy grants: %+v", d)
	}
}

func TestConditionsOfTheTemplate(t *testing.T) {
	role, err := load(t, text, nil).Role("F")
	if err != nil || len(role.Statements) != 4 || role.statement("Read") != nil {
		t.Errorf("without admins: %+v (%v)", role, err)
	}
}

// What it does not know it does not pass over.
func TestWhatIsNotKnown(t *testing.T) {
	for change, want := range map[string]string{
		"ForAllValues:StringEquals>ForAnyValue:StringEquals": "the operator ForAnyValue:StringEquals",
		"StringLikeIfExists>ArnLike":                         "the operator ArnLike",
		"Action: SSM:getParameter>NotAction: x":              "the element NotAction",
		"Sid: Never>Sid: Tag":                                "two statements are named Tag",
		"Effect: Deny>Effect: Perhaps":                       "the effect Perhaps",
		"!GetAtt FRole.Arn>!GetAtt Queue.Arn":                "no role of the template's",
		"!GetAtt Queue.Arn>!GetAtt Queue.Name":               "what Queue.Name is cannot be told",
	} {
		from, to, _ := strings.Cut(change, ">")
		_, err := load(t, strings.Replace(text, from, to, 1), nil).Role("F")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

const queuePolicy = `
  Policy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Queue]
      PolicyDocument:
        Statement:
          Sid: Senders
          Effect: Deny
          Principal: '*'
          Action: sqs:SendMessage
          Resource: !GetAtt Queue.Arn
          Condition:
            ArnNotLike:
              aws:PrincipalArn: [!GetAtt FRole.Arn, 'arn:aws:iam::000000000000:role/team/*']
            BoolIfExists: {aws:PrincipalIsAWSService: 'false'}
`

// A queue's policy is about everybody but those whom it names.
func TestQueuePolicies(t *testing.T) {
	loaded := load(t, text+queuePolicy, nil)
	all, err := loaded.QueuePolicies()
	if err != nil || len(all) != 1 || all[0].Name != "Policy" {
		t.Fatalf("%+v (%v)", all, err)
	}
	role, err := loaded.Role("F")
	if err != nil || role.ARN != "arn:aws:iam::000000000000:role/rekey-FRole" {
		t.Fatalf("%+v (%v)", role, err)
	}
	const queue = "arn:aws:sqs:us-east-1:000000000000:rekey-orders"
	by := func(arns ...string) map[string][]string { return map[string][]string{"aws:PrincipalArn": arns} }
	for _, c := range []struct {
		Access
		denied bool
	}{
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by(role.ARN)}, false},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by("arn:aws:iam::000000000000:role/team/a/b")}, false},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by("arn:aws:iam::000000000001:role/team/a")}, true},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by("arn:aws:iam::000000000000:role/teams")}, true},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by("arn:aws:sts::000000000000:assumed-role/rekey-FRole/session")}, true},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: by("anybody")}, true},
		{Access{Action: "sqs:SendMessage", Resource: queue}, true},
		{Access{Action: "sqs:SendMessage", Resource: queue, Context: map[string][]string{"aws:PrincipalIsAWSService": {"true"}}}, false},
		{Access{Action: "sqs:SendMessage", Resource: queue + "s", Context: by("anybody")}, false},
		{Access{Action: "sqs:ReceiveMessage", Resource: queue, Context: by("anybody")}, false},
	} {
		if d := all[0].Decide(c.Access); d.Denied != c.denied || d.Allowed {
			t.Errorf("%+v: %+v", c.Access, d)
		}
	}
	for change, want := range map[string]string{
		"Principal: '*'>Principal: {AWS: '*'}":                     "a statement is about the principal map[AWS:*]",
		"ArnNotLike>ArnNotLikeIfSo":                                "the operator ArnNotLikeIfSo",
		"Resource: !GetAtt Queue.Arn>Resource: !GetAtt Queue.Name": "what Queue.Name is cannot be told",
	} {
		from, to, _ := strings.Cut(change, ">")
		if _, err := load(t, text+strings.Replace(queuePolicy, from, to, 1), nil).QueuePolicies(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// A ledger finds what nobody asked for, and what another statement allows as well.
func TestLedger(t *testing.T) {
	role := &Role{Name: "F", Statements: []Statement{
		{Sid: "Some", Actions: []string{"s:Get", "s:Put"}, Resources: []string{"a/*"}},
		{Sid: "All", Actions: []string{"s:Get"}, Resources: []string{"*"}},
		{Sid: "Never", Deny: true, Actions: []string{"s:Get", "s:Put"}, Resources: []string{"*/x"}},
	}}
	var l Ledger
	for _, asked := range []Access{
		{Action: "s:Get", Resource: "a/1"}, {Action: "s:Get", Resource: "a/2"}, {Action: "s:Get", Resource: "b"},
		{Action: "s:Get", Resource: "b/x"}, {Action: "s:Delete", Resource: "a/1"}, {Action: "s:List", Resource: "a", Granted: true},
	} {
		l.Decide(role, asked)
	}
	if unused := l.Unused(role); !slices.Equal(unused, []Permission{{"Some", "s:Put"}, {"Never", "s:Put"}}) {
		t.Errorf("unused: %v", unused)
	}
	if idle := l.Idle(role); !slices.Equal(idle, []Permission{{"Some", "s:Get"}, {"Some", "s:Put"}, {"Never", "s:Put"}}) {
		t.Errorf("idle: %v", idle)
	}
	if idle := l.Idle(role.With("All", "s:List")); !slices.Contains(idle, Permission{"All", "s:List"}) {
		t.Errorf("what the resource's policy grants needs no other: %v", idle)
	}
	if l.Asked() != 6 || len(l.Entries("F")) != 5 {
		t.Errorf("%d asked, %d entries", l.Asked(), len(l.Entries("F")))
	}
}
