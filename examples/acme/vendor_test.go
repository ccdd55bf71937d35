package acme_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// vendor answers as Acme documents, for one account.
type vendor struct {
	*httptest.Server
	mu   sync.Mutex
	made int
	keys []vendorKey
}

type vendorKey struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Key  string `json:"key,omitempty"` // shown once
}

func startVendor(t *testing.T) *vendor {
	v := &vendor{keys: []vendorKey{{ID: "k-0", Name: "made by hand", Key: "acme-0000-first"}}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /keys", v.create)
	mux.HandleFunc("GET /keys", v.list)
	mux.HandleFunc("DELETE /keys/{id}", v.delete)
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		defer v.mu.Unlock()
		key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !v.live("", key) {
			http.Error(w, "no such key: "+key, http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *vendor) create(w http.ResponseWriter, r *http.Request) {
	var k vendorKey
	if err := json.NewDecoder(r.Body).Decode(&k); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v.made++
	k.ID, k.Key = fmt.Sprintf("k-%d", v.made), fmt.Sprintf("acme-%04d-minted", v.made)
	v.keys = append(v.keys, k)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(k)
}

func (v *vendor) list(w http.ResponseWriter, _ *http.Request) {
	listed := []vendorKey{}
	for _, k := range v.keys {
		listed = append(listed, vendorKey{ID: k.ID, Name: k.Name})
	}
	_ = json.NewEncoder(w).Encode(listed)
}

func (v *vendor) delete(w http.ResponseWriter, r *http.Request) {
	for i, k := range v.keys {
		if k.ID == r.PathValue("id") {
			v.keys = append(v.keys[:i], v.keys[i+1:]...)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.NotFound(w, r)
}

// live tells whether a key works, under an id if one is given.
func (v *vendor) live(id, key string) bool {
	for _, k := range v.keys {
		if k.Key == key && (id == "" || k.ID == id) {
			return true
		}
	}
	return false
}

// FirstValue is a secret as an owner wrote it.
func (v *vendor) FirstValue() rotators.Secret {
	return rotators.NewSecret("{\n  \"apiKey\": \"acme-0000-first\",\n  \"apiKeyId\": \"k-0\",\n  \"region\": \"eu\", \"retries\": 3.0\n}\n")
}

// Accepts asks Acme itself, past the Wire.
func (v *vendor) Accepts(_ context.Context, value rotators.Secret) (bool, error) {
	key, err := value.Field("apiKey")
	if err != nil {
		return false, err
	}
	id, err := value.Field("apiKeyId")
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.live(id.Reveal(), key.Reveal()), err
}

// Keys counts the account's keys.
func (v *vendor) Keys(context.Context) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.keys), nil
}
