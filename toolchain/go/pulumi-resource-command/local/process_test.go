package local

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulumi/pulumi-go-provider/infer"
)

func pointer[T any](value T) *T { return &value }

func quiet() Settings { return Settings{Logging: pointer(Logging("none"))} }

func TestRunReturnsBothStreamsWithoutTheirLastNewline(t *testing.T) {
	results, err := run(t.Context(), "printf 'a\\n\\n'; echo b >&2", quiet(), Results{})
	if err != nil || results.Stdout != "a\n" || results.Stderr != "b" {
		t.Fatalf("%q %q %v", results.Stdout, results.Stderr, err)
	}
}

func TestFailureNamesStatusAndStderrAndKeepsSecretsOut(t *testing.T) {
	settings := quiet()
	settings.Stdin = pointer("from-stdin")
	settings.Environment = &map[string]string{"TOKEN": "from-environment"}
	_, err := run(t.Context(), "cat; echo \"$TOKEN\"; echo cause >&2; exit 3", settings, Results{})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cause") {
		t.Fatal(err)
	}
	if strings.Contains(err.Error(), "from-stdin") || strings.Contains(err.Error(), "from-environment") {
		t.Fatal(err)
	}
}

func TestPreviousOutputIsHandedOnUnlessRefused(t *testing.T) {
	previous := Results{Stdout: "before"}
	settings := quiet()
	for refused, expected := range map[bool]string{false: "before", true: ""} {
		settings.AddPreviousOutputInEnv = pointer(!refused)
		results, err := run(t.Context(), "printf %s \"$PULUMI_COMMAND_STDOUT\"", settings, previous)
		if err != nil || results.Stdout != expected {
			t.Fatalf("refused %v: %q %v", refused, results.Stdout, err)
		}
	}
}

func TestInterpreterAndFolder(t *testing.T) {
	settings := quiet()
	settings.Interpreter = &[]string{"/bin/echo", "-n"}
	settings.Dir = pointer(t.TempDir())
	results, err := run(t.Context(), "word", settings, Results{})
	if err != nil || results.Stdout != "word" {
		t.Fatal(results, err)
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	note := filepath.Join(t.TempDir(), "child")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := run(ctx, "sleep 60 & echo $! > "+note+".new; mv "+note+".new "+note+"; wait", quiet(), Results{})
		done <- err
	}()
	child := 0
	for child == 0 {
		if content, err := os.ReadFile(note); err == nil {
			if child, err = strconv.Atoi(strings.TrimSpace(string(content))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Fatal("a cancelled command is a failure")
		}
	case <-time.After(2 * grace):
		t.Fatal("still running")
	}
	for deadline := time.Now().Add(grace); alive(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the shell's child outlived it")
		}
	}
}

// alive says whether a process runs; one that nobody has collected yet does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(status), ") Z ")
}

func TestLastMatchingGlobDecides(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.txt", "b.txt", "c.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := matching(dir, []string{"*.txt", "!b*"})
	if err != nil || len(found) != 1 || found["a.txt"] == nil {
		t.Fatal(found, err)
	}
}

func TestUpdateRunsUpdateElseCreate(t *testing.T) {
	inputs := CommandInputs{Settings: quiet(), Create: pointer("echo create")}
	for update, expected := range map[*string]string{nil: "create", pointer("echo update"): "update"} {
		inputs.Update = update
		response, err := Command{}.Update(t.Context(), infer.UpdateRequest[CommandInputs, CommandOutputs]{Inputs: inputs})
		if err != nil || response.Output.Stdout != expected {
			t.Fatal(response.Output.Stdout, err)
		}
	}
}

func TestPreviewRunsNothing(t *testing.T) {
	note := filepath.Join(t.TempDir(), "ran")
	inputs := CommandInputs{Settings: quiet(), Create: pointer("touch " + note)}
	if _, err := (Command{}).Create(t.Context(), infer.CreateRequest[CommandInputs]{Inputs: inputs, DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(note); !os.IsNotExist(err) {
		t.Fatal("the command ran")
	}
}
