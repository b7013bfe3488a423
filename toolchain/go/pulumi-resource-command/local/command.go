// Package local runs commands on the machine that runs Pulumi.
package local

import (
	"context"

	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// Logging says which streams of a command are shown while it runs.
type Logging string

// Values lists what a program may say.
func (Logging) Values() []infer.EnumValue[Logging] {
	return []infer.EnumValue[Logging]{
		{Name: "stdout", Value: "stdout", Description: "Show stdout only"},
		{Name: "stderr", Value: "stderr", Description: "Show stderr only"},
		{Name: "stdoutAndStderr", Value: "stdoutAndStderr", Description: "Show both"},
		{Name: "none", Value: "none", Description: "Show nothing"},
	}
}

// Settings are what Command and run have in common: how a command runs.
type Settings struct {
	Stdin                  *string            `pulumi:"stdin,optional"`
	Logging                *Logging           `pulumi:"logging,optional"`
	AddPreviousOutputInEnv *bool              `pulumi:"addPreviousOutputInEnv,optional"`
	Interpreter            *[]string          `pulumi:"interpreter,optional"`
	Dir                    *string            `pulumi:"dir,optional"`
	Environment            *map[string]string `pulumi:"environment,optional"`
	AssetPaths             *[]string          `pulumi:"assetPaths,optional"`
	ArchivePaths           *[]string          `pulumi:"archivePaths,optional"`
}

// Results are what Command and run have in common: what a command left.
type Results struct {
	Stdout  string                           `pulumi:"stdout"`
	Stderr  string                           `pulumi:"stderr"`
	Assets  *map[string]types.AssetOrArchive `pulumi:"assets,optional"`
	Archive *resource.Archive                `pulumi:"archive,optional"`
}

// Command runs commands when the resource is created, updated and deleted.
type Command struct{}

// CommandInputs are a Command's inputs. A changed trigger replaces the resource; all else updates it.
type CommandInputs struct {
	Settings
	Triggers *[]any  `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Create   *string `pulumi:"create,optional"`
	Update   *string `pulumi:"update,optional"`
	Delete   *string `pulumi:"delete,optional"`
}

// CommandOutputs are a Command's state.
type CommandOutputs struct {
	CommandInputs
	Results
}

// Create runs the create command. In a preview nothing runs: infer makes the results unknown.
func (Command) Create(
	ctx context.Context, request infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandOutputs], error) {
	state := CommandOutputs{CommandInputs: request.Inputs}
	id, err := resource.NewUniqueHex(request.Name, 8, 0)
	if err == nil && !request.DryRun && request.Inputs.Create != nil {
		state.Results, err = run(ctx, *request.Inputs.Create, state.Settings, state.Results)
	}
	return infer.CreateResponse[CommandOutputs]{ID: id, Output: state}, err
}

// Update runs the update command, or the create command where there is none.
func (Command) Update(
	ctx context.Context, request infer.UpdateRequest[CommandInputs, CommandOutputs],
) (infer.UpdateResponse[CommandOutputs], error) {
	state := CommandOutputs{CommandInputs: request.Inputs, Results: request.State.Results}
	command := request.Inputs.Create
	if request.Inputs.Update != nil {
		command = request.Inputs.Update
	}
	var err error
	if command != nil && !request.DryRun {
		state.Results, err = run(ctx, *command, state.Settings, state.Results)
	}
	return infer.UpdateResponse[CommandOutputs]{Output: state}, err
}

// Delete runs the delete command.
func (Command) Delete(
	ctx context.Context, request infer.DeleteRequest[CommandOutputs],
) (infer.DeleteResponse, error) {
	if request.State.Delete == nil {
		return infer.DeleteResponse{}, nil
	}
	_, err := run(ctx, *request.State.Delete, request.State.Settings, request.State.Results)
	return infer.DeleteResponse{}, err
}

// Run is the function that runs a command each time the program runs, in previews too.
type Run struct{}

// RunInputs are the function's inputs.
type RunInputs struct {
	Settings
	Command string `pulumi:"command"`
}

// RunOutputs are the function's inputs and what the command left.
type RunOutputs struct {
	RunInputs
	Results
}

// Invoke runs the command.
func (Run) Invoke(
	ctx context.Context, request infer.FunctionRequest[RunInputs],
) (infer.FunctionResponse[RunOutputs], error) {
	outputs := RunOutputs{RunInputs: request.Input}
	var err error
	outputs.Results, err = run(ctx, request.Input.Command, request.Input.Settings, outputs.Results)
	return infer.FunctionResponse[RunOutputs]{Output: outputs}, err
}
