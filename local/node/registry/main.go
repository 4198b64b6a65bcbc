// Command registry is the CNCF distribution registry with its file system storage only.
//
// Upstream's own command links the SDKs of three clouds for storage that the local cluster does not use.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if registry.RootCmd.Execute() != nil {
		os.Exit(1)
	}
}
