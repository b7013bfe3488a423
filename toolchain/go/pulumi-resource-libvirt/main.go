// Command pulumi-resource-libvirt bridges the Terraform provider for libvirt to Pulumi,
// with the names that version 0.5.4 of Pulumi's libvirt SDKs use.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/dmacvicar/terraform-provider-libvirt/libvirt"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfgen"
	sdkv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag/colors"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
)

const (
	name    = "libvirt"
	version = "0.5.4"
)

// resource gives a Terraform resource the token of the SDKs: module and member are one name twice.
func resource(module, member string) *tfbridge.ResourceInfo {
	return &tfbridge.ResourceInfo{Tok: tokens.Type("libvirt:index/" + module + ":" + member)}
}

func function(member string) *tfbridge.DataSourceInfo {
	return &tfbridge.DataSourceInfo{Tok: tokens.ModuleMember("libvirt:index/" + member + ":" + member)}
}

func info() tfbridge.ProviderInfo {
	provider := tfbridge.ProviderInfo{
		P:                sdkv2.NewProvider(libvirt.Provider()),
		Name:             name,
		Version:          version,
		GitHubOrg:        "dmacvicar",
		Config:           map[string]*tfbridge.SchemaInfo{},
		UpstreamRepoPath: ".",
		Resources: map[string]*tfbridge.ResourceInfo{
			"libvirt_cloudinit_disk": resource("cloudInitDisk", "CloudInitDisk"),
			"libvirt_combustion":     resource("combustion", "Combustion"),
			"libvirt_domain":         resource("domain", "Domain"),
			"libvirt_ignition":       resource("ignition", "Ignition"),
			"libvirt_network":        resource("network", "Network"),
			"libvirt_pool":           resource("pool", "Pool"),
			"libvirt_volume":         resource("volume", "Volume"),
		},
		DataSources: map[string]*tfbridge.DataSourceInfo{
			"libvirt_network_dns_host_template":        function("getNetworkDnsHostTemplate"),
			"libvirt_network_dns_srv_template":         function("getNetworkDnsSrvTemplate"),
			"libvirt_network_dnsmasq_options_template": function("getNetworkDnsmasqOptionsTemplate"),
			"libvirt_node_device_info":                 function("getNodeDeviceInfo"),
			"libvirt_node_devices":                     function("getNodeDevices"),
			"libvirt_node_info":                        function("getNodeInfo"),
		},
	}
	provider.SetAutonaming(255, "-")
	return provider
}

// schema is made at each start: it takes less time than a second build step would be worth.
func schema(provider tfbridge.ProviderInfo) ([]byte, error) {
	quiet := diag.DefaultSink(io.Discard, io.Discard, diag.FormatOptions{Color: colors.Never})
	spec, err := tfgen.GenerateSchema(provider, quiet)
	if err != nil {
		return nil, err
	}
	return json.Marshal(spec)
}

func main() {
	defer libvirt.CleanupLibvirtConnections()
	provider := info()
	document, err := schema(provider)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-libvirt: no schema:", err)
		os.Exit(1)
	}
	tfbridge.Main(name, version, provider, document)
}
