// An HTTP service whose answers an attestation document covers, on vsock. The standard library alone.
package main

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

func main() {
	text, err := os.ReadFile("/etc/enclave.conf") // the profile's file: "vsock 7000 /dev/nsm", or Unix sockets
	profile := strings.Fields(string(text))
	if err != nil || len(profile) != 3 {
		log.Fatalf("no profile: %v", err)
	}
	listener, err := listen(profile[0], profile[1])
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/hello/", func(response http.ResponseWriter, request *http.Request) {
		nonce, err := hex.DecodeString(request.URL.Query().Get("nonce"))
		if err != nil || len(nonce) != 32 {
			http.Error(response, "nonce must be 32 bytes in hex", http.StatusBadRequest)
			return
		}
		answer := fmt.Sprintf("Hello, %s.", strings.TrimPrefix(request.URL.Path, "/hello/"))
		digest := sha512.Sum384([]byte(answer))
		document, err := attest(profile[2], digest[:], nonce)
		if err != nil {
			log.Print(err)
			http.Error(response, "the NSM gave no document", http.StatusInternalServerError)
			return
		}
		json.NewEncoder(response).Encode(map[string]any{"answer": answer, "document": document}) // bytes: base64
	})
	log.Fatal(http.Serve(listener, nil))
}
