package main

import (
	"bytes"
	"context"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// firstConfig gives a node in maintenance mode its config, from whoever comes; other nodes it leaves alone.
func (a *apid) firstConfig(ctx context.Context, data []byte) error {
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	n := a.node
	if n.Face != faceMaintenance {
		return nil
	}
	provider, err := configloader.NewFromBytes(data)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if provider.RawV1Alpha1() == nil {
		return status.Error(codes.InvalidArgument, "no v1alpha1 config")
	}
	way := ""
	if len(n.Takes) > 0 {
		way, n.Takes = n.Takes[0], n.Takes[1:]
	}
	if way != takeLost && n.Config == nil {
		n.Config = data
		go a.cluster.leaveMaintenance(n, provider)
	}
	if way == "" {
		return nil
	}
	_ = a.cluster.show(n) // ends this connection
	<-ctx.Done()
	return ctx.Err()
}

// leaveMaintenance shows the node with its config's authority after a while, unless it never does.
func (c *cluster) leaveMaintenance(n *node, provider config.Provider) {
	time.Sleep(time.Duration(c.plan.RebootSeconds * float64(time.Second)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.Stays || n.Face != faceMaintenance {
		return
	}
	n.Face = faceStranger
	security := provider.Machine().Security()
	for _, accepted := range security.AcceptedCAs() {
		if bytes.Equal(accepted.Crt, c.own.talos.pem.Crt) {
			n.Face = faceUp
		}
	}
	if issuing := security.IssuingCA(); issuing != nil && bytes.Equal(issuing.Crt, c.own.talos.pem.Crt) {
		n.Face = faceUp
	}
	_ = c.show(n)
}
