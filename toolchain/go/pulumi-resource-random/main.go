// Command pulumi-resource-random bridges the Terraform provider for random to Pulumi,
// with the names that version 4.21.4 of Pulumi's random SDKs use.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	pf "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
	pfgen "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag/colors"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/terraform-providers/terraform-provider-random/shim"
)

const (
	name    = "random"
	version = "4.21.4"
)

// resource gives a Terraform resource the token of the SDKs: module and member are one name twice.
func resource(module, member string) *tfbridge.ResourceInfo {
	return &tfbridge.ResourceInfo{Tok: tokens.Type("random:index/" + module + ":" + member)}
}

func info() tfbridge.ProviderInfo {
	provider := tfbridge.ProviderInfo{
		P:                pf.ShimProvider(shim.New()),
		Name:             name,
		Version:          version,
		GitHubOrg:        "hashicorp",
		UpstreamRepoPath: ".",
		MetadataInfo:     tfbridge.NewProviderMetadata([]byte("{}")),
		Resources: map[string]*tfbridge.ResourceInfo{
			"random_bytes":    resource("randomBytes", "RandomBytes"),
			"random_id":       resource("randomId", "RandomId"),
			"random_integer":  resource("randomInteger", "RandomInteger"),
			"random_password": resource("randomPassword", "RandomPassword"),
			"random_pet":      resource("randomPet", "RandomPet"),
			"random_shuffle":  resource("randomShuffle", "RandomShuffle"),
			"random_string":   resource("randomString", "RandomString"),
			"random_uuid":     resource("randomUuid", "RandomUuid"),
			"random_uuid4":    resource("randomUuid4", "RandomUuid4"),
			"random_uuid7":    resource("randomUuid7", "RandomUuid7"),
		},
	}
	provider.SetAutonaming(255, "-")
	return provider
}

// schema is made at each start: it takes less time than a second build step would be worth.
func schema(ctx context.Context, provider tfbridge.ProviderInfo) ([]byte, error) {
	result, err := pfgen.GenerateSchema(ctx, pfgen.GenerateSchemaOptions{
		ProviderInfo:    provider,
		DiagnosticsSink: diag.DefaultSink(io.Discard, io.Discard, diag.FormatOptions{Color: colors.Never}),
	})
	if err != nil {
		return nil, err
	}
	return result.ProviderMetadata.PackageSchema, nil
}

func main() {
	ctx := context.Background()
	provider := info()
	document, err := schema(ctx, provider)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-random: no schema:", err)
		os.Exit(1)
	}
	pf.Main(ctx, name, provider, pf.ProviderMetadata{PackageSchema: document})
}
