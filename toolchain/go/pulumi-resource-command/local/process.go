package local

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	p "github.com/pulumi/pulumi-go-provider"

	"layer1/toolchain/pulumi-resource-command/output"
)

// How long a cancelled command has between the polite signal and the final one.
const grace = 5 * time.Second

// run runs one command and returns what it left; `previous` is what the last run left.
func run(ctx context.Context, command string, settings Settings, previous Results) (Results, error) {
	logging := ""
	if settings.Logging != nil {
		logging = string(*settings.Logging)
	}
	capture := output.NewCapture(logging, p.GetLogger(ctx).Info)
	process := newProcess(ctx, command, settings)
	process.Env = environment(settings, previous)
	process.Stdout, process.Stderr = capture.Stdout, capture.Stderr
	err := process.Run()
	capture.Flush()
	if ctx.Err() != nil && process.Process != nil {
		// What outlived the polite signal; the number is not taken anew while a member of the group lives.
		_ = syscall.Kill(-process.Process.Pid, syscall.SIGKILL)
		err = ctx.Err()
	}
	if err != nil {
		return previous, capture.Failure(err, command)
	}
	results := previous
	results.Stdout, results.Stderr = capture.Results()
	if err := results.collect(process.Dir, settings); err != nil {
		return previous, err
	}
	return results, nil
}

func newProcess(ctx context.Context, command string, settings Settings) *exec.Cmd {
	arguments := []string{"/bin/sh", "-c"}
	if settings.Interpreter != nil && len(*settings.Interpreter) > 0 {
		arguments = append([]string{}, *settings.Interpreter...)
	}
	arguments = append(arguments, command)
	process := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	if settings.Dir != nil {
		process.Dir = *settings.Dir
	}
	if settings.Stdin != nil && *settings.Stdin != "" {
		process.Stdin = strings.NewReader(*settings.Stdin)
	}
	// A group of its own, so that a cancelled shell does not leave its children running.
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	process.Cancel = func() error { return syscall.Kill(-process.Process.Pid, syscall.SIGTERM) }
	process.WaitDelay = grace
	return process
}

func environment(settings Settings, previous Results) []string {
	variables := os.Environ()
	if settings.Environment != nil {
		for name, value := range *settings.Environment {
			variables = append(variables, name+"="+value)
		}
	}
	if settings.AddPreviousOutputInEnv != nil && !*settings.AddPreviousOutputInEnv {
		return variables
	}
	if previous.Stdout != "" {
		variables = append(variables, output.PreviousStdout+"="+previous.Stdout)
	}
	if previous.Stderr != "" {
		variables = append(variables, output.PreviousStderr+"="+previous.Stderr)
	}
	return variables
}
