package remote

import (
	"context"
	"errors"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"golang.org/x/crypto/ssh"

	"layer1/toolchain/pulumi-resource-command/output"
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

// Command runs commands on another machine when the resource is created, updated and deleted.
type Command struct{}

// CommandInputs are a Command's inputs. A changed trigger replaces the resource; all else updates it.
type CommandInputs struct {
	Connection             *Connection        `pulumi:"connection" provider:"secret"`
	Environment            *map[string]string `pulumi:"environment,optional"`
	Stdin                  *string            `pulumi:"stdin,optional"`
	Logging                *Logging           `pulumi:"logging,optional"`
	AddPreviousOutputInEnv *bool              `pulumi:"addPreviousOutputInEnv,optional"`
	Triggers               *[]any             `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Create                 *string            `pulumi:"create,optional"`
	Update                 *string            `pulumi:"update,optional"`
	Delete                 *string            `pulumi:"delete,optional"`
}

// CommandOutputs are a Command's state.
type CommandOutputs struct {
	CommandInputs
	Stdout string `pulumi:"stdout"`
	Stderr string `pulumi:"stderr"`
}

// Create runs the create command. In a preview nothing runs: infer makes the results unknown.
func (Command) Create(
	ctx context.Context, request infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandOutputs], error) {
	state := CommandOutputs{CommandInputs: request.Inputs}
	id, err := resource.NewUniqueHex(request.Name, 8, 0)
	if err == nil && !request.DryRun && request.Inputs.Create != nil {
		err = state.run(ctx, *request.Inputs.Create)
	}
	return infer.CreateResponse[CommandOutputs]{ID: id, Output: state}, err
}

// Update runs the update command, or the create command where there is none.
func (Command) Update(
	ctx context.Context, request infer.UpdateRequest[CommandInputs, CommandOutputs],
) (infer.UpdateResponse[CommandOutputs], error) {
	state := CommandOutputs{request.Inputs, request.State.Stdout, request.State.Stderr}
	command := request.Inputs.Create
	if request.Inputs.Update != nil {
		command = request.Inputs.Update
	}
	var err error
	if command != nil && !request.DryRun {
		err = state.run(ctx, *command)
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
	return infer.DeleteResponse{}, request.State.run(ctx, *request.State.Delete)
}

func (c *CommandOutputs) run(ctx context.Context, command string) error {
	client, err := c.Connection.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	// The protocol cannot be relied on to signal the command; hanging up is what it notices.
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	c.setEnvironment(ctx, session)
	if c.Stdin != nil && *c.Stdin != "" {
		session.Stdin = strings.NewReader(*c.Stdin)
	}
	capture := output.NewCapture(string(or(c.Logging, "")), p.GetLogger(ctx).Info)
	session.Stdout, session.Stderr = capture.Stdout, capture.Stderr
	err = session.Run(command)
	capture.Flush()
	if err != nil {
		return capture.Failure(errors.Join(ctx.Err(), err), command)
	}
	c.Stdout, c.Stderr = capture.Results()
	return nil
}

// setEnvironment asks for each variable. A server takes only what its AcceptEnv names; as with the official
// plugin a refusal is no failure, but here it is said.
func (c *CommandOutputs) setEnvironment(ctx context.Context, session *ssh.Session) {
	for name, value := range or(c.Environment, nil) {
		if err := session.Setenv(name, value); err != nil {
			p.GetLogger(ctx).Warningf("the server does not accept the variable %s (sshd: AcceptEnv)", name)
		}
	}
	if !or(c.AddPreviousOutputInEnv, true) {
		return
	}
	if c.Stdout != "" {
		_ = session.Setenv(output.PreviousStdout, c.Stdout)
	}
	if c.Stderr != "" {
		_ = session.Setenv(output.PreviousStderr, c.Stderr)
	}
}
