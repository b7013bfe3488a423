// Command pulumi-resource-command is a stand-in for Pulumi's command plugin, for machines that cannot
// download it. It speaks the schema of version 1.2.1 for the resources that this program uses.
package main

import (
	"context"
	"fmt"
	"os"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	host "github.com/pulumi/pulumi/pkg/v3/resource/provider"
	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"

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
		err = host.MainContext(context.Background(), name,
			func(client *host.HostClient) (rpc.ResourceProviderServer, error) {
				served, err := p.RawServer(name, version, provider)(client)
				return server{served}, err
			})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-command:", err)
		os.Exit(1)
	}
}

// server takes the framework's note to itself out of the provider's configuration: the engine keeps that
// key for itself, drops what it finds there, and warns about it in every run.
type server struct {
	rpc.ResourceProviderServer
}

func (s server) CheckConfig(ctx context.Context, request *rpc.CheckRequest) (*rpc.CheckResponse, error) {
	response, err := s.ResourceProviderServer.CheckConfig(ctx, request)
	if inputs := response.GetInputs(); inputs != nil {
		delete(inputs.Fields, "__internal")
	}
	return response, err
}
