// Command pulumi-resource-command is a stand-in for Pulumi's command plugin, for machines that cannot
// download it. It speaks the schema of version 1.2.1 for the resources that this program uses.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/pulumi/pulumi-go-provider/infer"

	"layer1/toolchain/pulumi-resource-command/local"
	"layer1/toolchain/pulumi-resource-command/remote"
)

const (
	name    = "command"
	version = "1.2.1"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "-version" {
		fmt.Println(version)
		return
	}
	provider, err := infer.NewProviderBuilder().
		WithDisplayName("Command").
		WithDescription("Runs commands and copies files as part of the resource model.").
		WithResources(
			infer.Resource(local.Command{}),
			infer.Resource(remote.Command{}),
			infer.Resource(remote.CopyToRemote{}),
		).
		WithFunctions(infer.Function(local.Run{})).
		Build()
	if err == nil {
		err = provider.Run(context.Background(), name, version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-command:", err)
		os.Exit(1)
	}
}
