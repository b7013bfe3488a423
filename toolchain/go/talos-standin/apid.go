package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	cosi "github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// apid answers at one node's address, for that node and, as the real one, for others.
type apid struct {
	machine.UnimplementedMachineServiceServer

	cluster  *cluster
	node     *node
	listener net.Listener
	grpc     *grpc.Server
	gone     context.Context
	leave    context.CancelFunc
}

func (c *cluster) listen(n *node) (*apid, error) {
	place := net.JoinHostPort(n.Address, fmt.Sprint(c.plan.Port))
	listener, err := net.Listen("tcp", place)
	// The former listener's socket closes only when its last Accept has returned.
	for tries := 0; errors.Is(err, syscall.EADDRINUSE) && tries < 200; tries++ {
		time.Sleep(10 * time.Millisecond)
		listener, err = net.Listen("tcp", place)
	}
	if err != nil {
		return nil, err
	}
	a := &apid{cluster: c, node: n, listener: listener}
	a.gone, a.leave = context.WithCancel(context.Background())
	var config *tls.Config
	switch n.Face {
	case faceSilent:
		go a.swallow()
		return a, nil
	case faceMaintenance:
		if n.self == nil {
			n.self, n.Fingerprint, err = maintenanceTLS(n.Address)
		}
		config = n.self
	case faceStranger:
		config, err = c.strange.talos.serverTLS(n.Address)
	default:
		config, err = c.own.talos.serverTLS(n.Address)
	}
	if err != nil {
		return nil, err
	}
	a.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(config)),
		grpc.UnaryInterceptor(a.unary), grpc.StreamInterceptor(a.stream))
	machine.RegisterMachineServiceServer(a.grpc, a)
	machine.RegisterImageServiceServer(a.grpc, imageService{apid: a})
	machine.RegisterLifecycleServiceServer(a.grpc, lifecycleService{apid: a})
	cosi.RegisterStateServer(a.grpc, resourceService{apid: a})
	go func() { _ = a.grpc.Serve(listener) }()
	return a, nil
}

func (a *apid) stop() {
	a.leave()
	if a.grpc == nil {
		_ = a.listener.Close()
		return
	}
	go a.grpc.Stop() // it waits for its handlers, which may wait for the lock
	_ = a.listener.Close()
}

func (a *apid) swallow() {
	var held []net.Conn
	for {
		connection, err := a.listener.Accept()
		if err != nil {
			for _, one := range held {
				_ = one.Close()
			}
			return
		}
		held = append(held, connection)
	}
}

// asked returns the nodes that a call is for, and whether the answer names them.
func asked(ctx context.Context, here string) ([]string, bool) {
	values, _ := metadata.FromIncomingContext(ctx)
	if nodes := values.Get("nodes"); len(nodes) > 0 {
		return nodes, true
	}
	if one := values.Get("node"); len(one) > 0 {
		return one, false
	}
	return []string{here}, false
}

func (a *apid) enter(ctx context.Context, method string, request any) error {
	nodes, _ := asked(ctx, a.node.Address)
	one := call{Method: method[strings.LastIndex(method, "/")+1:], Nodes: nodes, Via: a.node.Address}
	if message, ok := request.(proto.Message); ok && !strings.HasSuffix(method, "/List") {
		if text, err := protojson.Marshal(message); err == nil && string(text) != "{}" {
			one.Request = string(text)
		}
	}
	a.cluster.record(one)
	a.cluster.mu.Lock()
	face := a.node.Face
	a.cluster.mu.Unlock()
	switch face {
	case faceMute:
		<-ctx.Done()
		return ctx.Err()
	case faceMaintenance:
		if !strings.HasSuffix(method, "/Version") && !strings.HasSuffix(method, "/ApplyConfiguration") {
			return status.Error(codes.Unimplemented, "API is not implemented in maintenance mode")
		}
	}
	return nil
}

func (a *apid) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if err := a.enter(ctx, info.FullMethod, request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (a *apid) stream(
	service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	if err := a.enter(stream.Context(), info.FullMethod, nil); err != nil {
		return err
	}
	return handler(service, stream)
}

// reach returns the node of this address as this one sees it. The caller holds the lock.
func (a *apid) reach(address string) (*node, error) {
	if a.node.Role != controlPlane && address != a.node.Address {
		return nil, status.Error(codes.PermissionDenied, "not authorized")
	}
	n := a.cluster.find(address)
	if n == a.node || (n != nil && n.Face == faceUp) {
		return n, nil
	}
	why := fmt.Sprintf("Error while dialing: dial tcp %s:%d: connect: connection refused", address, a.cluster.plan.Port)
	if n != nil && (n.Face == faceStranger || n.Face == faceMaintenance) {
		why = "authentication handshake failed: tls: failed to verify certificate: x509: " +
			"certificate signed by unknown authority"
	}
	return nil, status.Errorf(codes.Unavailable, `connection error: desc = "transport: %s"`, why)
}

// one gives, as it is now, the only node that a streamed call is for.
func (a *apid) one(ctx context.Context) (node, error) {
	nodes, _ := asked(ctx, a.node.Address)
	if len(nodes) != 1 {
		return node{}, status.Error(codes.InvalidArgument, "one-2-many proxying is not supported")
	}
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	n, err := a.reach(nodes[0])
	if err != nil {
		return node{}, err
	}
	return *n, nil
}

// each asks every node and tells, in the message's metadata, whose answer or error it is.
func each[M proto.Message](ctx context.Context, a *apid, ask func(*node) (M, error)) ([]M, error) {
	nodes, named := asked(ctx, a.node.Address)
	var answers []M
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	for _, address := range nodes {
		n, err := a.reach(address)
		var answer M
		if err == nil {
			answer, err = ask(n)
		}
		if !named {
			return []M{answer}, err
		}
		about := &common.Metadata{Hostname: address}
		if err != nil {
			about.Error, about.Status = err.Error(), status.Convert(err).Proto()
			answer = answer.ProtoReflect().Type().New().Interface().(M)
		}
		reflected := answer.ProtoReflect()
		field := reflected.Descriptor().Fields().ByName("metadata")
		reflected.Set(field, protoreflect.ValueOfMessage(about.ProtoReflect()))
		answers = append(answers, answer)
	}
	return answers, nil
}
