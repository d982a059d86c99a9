// A container registry for tests: it listens where it is told and keeps what is pushed in a folder.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: registry HOST:PORT FOLDER")
	}
	blobs := registry.WithBlobHandler(registry.NewDiskBlobHandler(os.Args[2]))
	log.Fatal(http.ListenAndServe(os.Args[1], registry.New(blobs)))
}
