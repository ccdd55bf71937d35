package rotators_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

func TestAcmeFollowsNoRedirect(t *testing.T) {
	reached := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer elsewhere.Close()
	acme := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer acme.Close()
	value := rotators.NewSecret(`{"url":"` + acme.URL + `","username":"app","password":"old"}`)
	next, err := value.Replace("password", rotators.NewSecret("new"))
	if err != nil {
		t.Fatal(err)
	}
	err = NewAcme(http.DefaultTransport).Set(t.Context(), rotators.Rotation{Current: value, Pending: next})
	if err == nil || rotators.IsRefused(err) || reached {
		t.Errorf("got %v, and the other host was reached: %t", err, reached)
	}
}
