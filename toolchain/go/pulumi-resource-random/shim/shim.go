// Package shim lets the plugin reach the provider, whose package is internal.
package shim

import (
	"github.com/hashicorp/terraform-plugin-framework/provider"
	random "github.com/terraform-providers/terraform-provider-random/internal/provider"
)

// New returns the Terraform provider.
func New() provider.Provider {
	return random.New()
}
