package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"golang.org/x/crypto/ssh"
)

func pointer[T any](value T) *T { return &value }

func key(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// machine is an SSH server on this machine that takes one key, runs commands and copies files.
func machine(t *testing.T) *Connection {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "")
	hostKey, _ := key(t)
	userKey, private := key(t)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			if string(offered.Marshal()) != string(userKey.PublicKey().Marshal()) {
				return nil, errors.New("not this key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection, config)
		}
	}()
	return &Connection{Endpoint: Endpoint{
		Host:           "127.0.0.1",
		Port:           pointer(float64(listener.Addr().(*net.TCPAddr).Port)),
		PrivateKey:     &private,
		HostKey:        pointer(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))),
		DialErrorLimit: pointer(0),
	}}
}

func serve(connection net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() == "direct-tcpip" {
			go forward(offered)
			continue
		}
		channel, asked, err := offered.Accept()
		if err != nil {
			return
		}
		go session(channel, asked)
	}
}

func forward(offered ssh.NewChannel) {
	var wanted struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if ssh.Unmarshal(offered.ExtraData(), &wanted) != nil {
		return
	}
	onward, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(wanted.Host), Port: int(wanted.Port)})
	if err != nil {
		_ = offered.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	go func() { _, _ = io.Copy(channel, onward); _ = channel.Close() }()
	_, _ = io.Copy(onward, channel)
	_ = onward.Close()
}

func session(channel ssh.Channel, requests <-chan *ssh.Request) {
	variables := os.Environ()
	for request := range requests {
		var first struct{ Name string }
		var pair struct{ Name, Value string }
		switch request.Type {
		case "env":
			accepted := ssh.Unmarshal(request.Payload, &pair) == nil && pair.Name != "REFUSED"
			if accepted {
				variables = append(variables, pair.Name+"="+pair.Value)
			}
			_ = request.Reply(accepted, nil)
		case "subsystem":
			_ = request.Reply(true, nil)
			server, err := sftp.NewServer(channel)
			if err == nil {
				_ = server.Serve()
			}
			_ = channel.Close()
		case "exec":
			_ = ssh.Unmarshal(request.Payload, &first)
			_ = request.Reply(true, nil)
			process := exec.Command("/bin/sh", "-c", first.Name)
			process.Env, process.Stdin, process.Stdout, process.Stderr = variables, channel, channel, channel.Stderr()
			process.WaitDelay = time.Second
			status := struct{ Status uint32 }{}
			if err := process.Run(); err != nil {
				status.Status = 1
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					status.Status = uint32(exit.ExitCode())
				}
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
			_ = channel.Close()
		default:
			_ = request.Reply(false, nil)
		}
	}
}

func create(t *testing.T, inputs CommandInputs) (CommandOutputs, error) {
	t.Helper()
	inputs.Logging = pointer(Logging("none"))
	response, err := Command{}.Create(t.Context(), infer.CreateRequest[CommandInputs]{Inputs: inputs})
	return response.Output, err
}

func TestCommandRunsThere(t *testing.T) {
	state, err := create(t, CommandInputs{
		Connection:  machine(t),
		Environment: &map[string]string{"WORD": "from-environment"},
		Stdin:       pointer("from-stdin"),
		Create:      pointer("cat; echo \" $WORD\"; echo aside >&2"),
	})
	if err != nil || state.Stdout != "from-stdin from-environment" || state.Stderr != "aside" {
		t.Fatal(state.Stdout, state.Stderr, err)
	}
}

func TestCommandRunsBehindABastion(t *testing.T) {
	connection := machine(t)
	connection.Proxy = &ProxyConnection{machine(t).Endpoint}
	state, err := create(t, CommandInputs{Connection: connection, Create: pointer("echo there")})
	if err != nil || state.Stdout != "there" {
		t.Fatal(state.Stdout, err)
	}
}

func TestFailureNamesStatusAndStderrOnly(t *testing.T) {
	_, err := create(t, CommandInputs{
		Connection: machine(t), Stdin: pointer("from-stdin"), Create: pointer("cat; echo cause >&2; exit 3"),
	})
	if err == nil || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), "cause") ||
		strings.Contains(err.Error(), "from-stdin") {
		t.Fatal(err)
	}
}

func TestAnotherHostKeyIsRefused(t *testing.T) {
	connection := machine(t)
	other, _ := key(t)
	connection.HostKey = pointer(string(ssh.MarshalAuthorizedKey(other.PublicKey())))
	if _, err := create(t, CommandInputs{Connection: connection, Create: pointer("true")}); err == nil ||
		!strings.Contains(err.Error(), "host key mismatch") {
		t.Fatal(err)
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	inputs := CommandInputs{Connection: machine(t), Logging: pointer(Logging("none")), Create: pointer("sleep 5")}
	start := time.Now()
	_, err := Command{}.Create(ctx, infer.CreateRequest[CommandInputs]{Inputs: inputs})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Fatal(time.Since(start), err)
	}
}

func TestCopy(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(here, "folder", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"folder/one", "folder/deep/two"} {
		if err := os.WriteFile(filepath.Join(here, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asset := func(a *resource.Asset, err error) types.AssetOrArchive {
		if err != nil {
			t.Fatal(err)
		}
		return types.AssetOrArchive{Asset: a}
	}
	folder := func(path string) types.AssetOrArchive {
		archive, err := resource.NewPathArchive(path)
		if err != nil {
			t.Fatal(err)
		}
		return types.AssetOrArchive{Archive: archive}
	}
	connection := machine(t)
	for _, copied := range []struct {
		source      types.AssetOrArchive
		destination string
		found       string
		content     string
	}{
		{asset(resource.NewTextAsset("words")), "text", "text", "words"},
		{asset(resource.NewPathAsset(filepath.Join(here, "folder/one"))), "renamed", "renamed", "folder/one"},
		{asset(resource.NewPathAsset(filepath.Join(here, "folder/one"))), "", "one", "folder/one"},
		{folder(filepath.Join(here, "folder")), "", "folder/deep/two", "folder/deep/two"},
		{folder(filepath.Join(here, "folder") + "/"), "content", "content/deep/two", "folder/deep/two"},
	} {
		inputs := CopyToRemoteInputs{
			Connection: connection, Source: copied.source, RemotePath: filepath.Join(there, copied.destination),
		}
		_, err := CopyToRemote{}.Create(t.Context(), infer.CreateRequest[CopyToRemoteInputs]{Inputs: inputs})
		if err != nil {
			t.Fatal(copied.destination, err)
		}
		content, err := os.ReadFile(filepath.Join(there, copied.found))
		if err != nil || string(content) != copied.content {
			t.Fatal(copied.found, string(content), err)
		}
	}
}
