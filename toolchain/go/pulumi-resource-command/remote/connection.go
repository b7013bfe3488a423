// Package remote runs commands on, and copies files to, machines reached by SSH.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pulumi/pulumi-go-provider/infer"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Endpoint is what a connection and its bastion have in common.
type Endpoint struct {
	Host               string   `pulumi:"host"`
	User               *string  `pulumi:"user,optional"`
	Password           *string  `pulumi:"password,optional"`
	Port               *float64 `pulumi:"port,optional"`
	PrivateKey         *string  `pulumi:"privateKey,optional"`
	PrivateKeyPassword *string  `pulumi:"privateKeyPassword,optional"`
	AgentSocketPath    *string  `pulumi:"agentSocketPath,optional"`
	DialErrorLimit     *int     `pulumi:"dialErrorLimit,optional"`
	PerDialTimeout     *int     `pulumi:"perDialTimeout,optional"`
	HostKey            *string  `pulumi:"hostKey,optional"`
}

// Connection says how to reach a machine.
type Connection struct {
	Endpoint
	Proxy *ProxyConnection `pulumi:"proxy,optional"`
}

// ProxyConnection says how to reach the bastion in front of it.
type ProxyConnection struct {
	Endpoint
}

const (
	defaultUser       = "root"
	defaultPort       = 22
	defaultErrorLimit = 10
	defaultTimeoutS   = 15
	longestPause      = 15 * time.Second
)

func (e *Endpoint) annotate(a infer.Annotator) {
	a.SetDefault(&e.User, defaultUser)
	a.SetDefault(&e.Port, defaultPort)
	a.SetDefault(&e.DialErrorLimit, defaultErrorLimit)
	a.SetDefault(&e.PerDialTimeout, defaultTimeoutS)
}

// Annotate declares the defaults.
func (c *Connection) Annotate(a infer.Annotator) { c.annotate(a) }

// Annotate declares the defaults.
func (c *ProxyConnection) Annotate(a infer.Annotator) { c.annotate(a) }

func or[T any](value *T, fallback T) T {
	if value == nil {
		return fallback
	}
	return *value
}

func (e *Endpoint) address() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(or(e.Port, defaultPort))))
}

// config gathers the ways to log in: the key first, then the password, then the agent.
func (e *Endpoint) config() (*ssh.ClientConfig, error) {
	config := &ssh.ClientConfig{
		User:    or(e.User, defaultUser),
		Timeout: time.Duration(or(e.PerDialTimeout, defaultTimeoutS)) * time.Second,
		// As the official plugin: without a host key given, any is taken.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	}
	if e.HostKey != nil {
		expected, _, _, _, err := ssh.ParseAuthorizedKey([]byte(*e.HostKey))
		if err != nil {
			return nil, fmt.Errorf("hostKey: %w", err)
		}
		config.HostKeyCallback = ssh.FixedHostKey(expected)
		config.HostKeyAlgorithms = algorithms(expected.Type())
	}
	if e.PrivateKey != nil {
		signer, err := e.signer()
		if err != nil {
			return nil, fmt.Errorf("privateKey: %w", err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if e.Password != nil {
		config.Auth = append(config.Auth, ssh.Password(*e.Password), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, _ []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range answers {
					answers[i] = *e.Password
				}
				return answers, nil
			}))
	}
	if socket := or(e.AgentSocketPath, os.Getenv("SSH_AUTH_SOCK")); socket != "" {
		connection, err := net.Dial("unix", socket)
		if err != nil {
			return nil, fmt.Errorf("SSH agent: %w", err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeysCallback(agent.NewClient(connection).Signers))
	}
	return config, nil
}

func (e *Endpoint) signer() (ssh.Signer, error) {
	if e.PrivateKeyPassword != nil {
		return ssh.ParsePrivateKeyWithPassphrase([]byte(*e.PrivateKey), []byte(*e.PrivateKeyPassword))
	}
	return ssh.ParsePrivateKey([]byte(*e.PrivateKey))
}

// algorithms makes a server with several keys offer the kind that is expected.
func algorithms(kind string) []string {
	if kind == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
	}
	return []string{kind}
}

// dial connects, through the bastion if there is one. Closing the client closes both.
func (c *Connection) dial(ctx context.Context) (*ssh.Client, error) {
	if c.Proxy == nil {
		return c.Endpoint.dial(ctx, (&net.Dialer{}).DialContext)
	}
	bastion, err := c.Proxy.dial(ctx, (&net.Dialer{}).DialContext)
	if err != nil {
		return nil, fmt.Errorf("bastion: %w", err)
	}
	client, err := c.Endpoint.dial(ctx, bastion.DialContext)
	if err != nil {
		return nil, errors.Join(err, bastion.Close())
	}
	go func() {
		_ = client.Wait()
		_ = bastion.Close()
	}()
	return client, nil
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dial tries until it works, until the limit of errors (-1: no limit), or until it is cancelled.
func (e *Endpoint) dial(ctx context.Context, connect dialer) (*ssh.Client, error) {
	config, err := e.config()
	if err != nil {
		return nil, err
	}
	limit := or(e.DialErrorLimit, defaultErrorLimit)
	pause := time.Second
	for failures := 1; ; failures++ {
		client, err := e.attempt(ctx, connect, config)
		if err == nil {
			return client, nil
		}
		if limit >= 0 && failures > limit {
			return nil, fmt.Errorf("after %d failed attempts to reach %s: %w", failures, e.address(), err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; last error: %w", ctx.Err(), err)
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}

func (e *Endpoint) attempt(ctx context.Context, connect dialer, config *ssh.ClientConfig) (*ssh.Client, error) {
	if config.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, config.Timeout)
		defer cancel()
	}
	connection, err := connect(ctx, "tcp", e.address())
	if err != nil {
		return nil, err
	}
	// The handshake has no context of its own: closing the connection under it ends it.
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	shell, channels, requests, err := ssh.NewClientConn(connection, e.address(), config)
	if err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return ssh.NewClient(shell, channels, requests), nil
}
