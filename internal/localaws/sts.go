package localaws

import "encoding/xml"

func (s *Server) stsOperations() map[string]operation {
	return map[string]operation{"sts.GetCallerIdentity": s.getCallerIdentity}
}

type getCallerIdentityResponse struct {
	XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
	Arn       string   `xml:"GetCallerIdentityResult>Arn"`
	UserID    string   `xml:"GetCallerIdentityResult>UserId"`
	Account   string   `xml:"GetCallerIdentityResult>Account"`
	RequestID string   `xml:"ResponseMetadata>RequestId"`
}

// getCallerIdentity answers that everybody is the account's root, because
// localaws knows no users.
func (s *Server) getCallerIdentity(call, []byte) (any, error) {
	return getCallerIdentityResponse{
		Arn:       "arn:aws:iam::" + s.config.Account + ":root",
		UserID:    s.config.Account,
		Account:   s.config.Account,
		RequestID: newUUID(),
	}, nil
}
