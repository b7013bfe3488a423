package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"slices"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func (a *apid) Bootstrap(ctx context.Context, _ *machine.BootstrapRequest) (*machine.BootstrapResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.Bootstrap, error) {
		return &machine.Bootstrap{}, a.cluster.bootstrap(n)
	})
	return &machine.BootstrapResponse{Messages: messages}, err
}

func (a *apid) Version(ctx context.Context, _ *emptypb.Empty) (*machine.VersionResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.Version, error) {
		return &machine.Version{
			Version:  &machine.VersionInfo{Tag: n.Version, Os: "linux", Arch: "amd64"},
			Platform: &machine.PlatformInfo{Name: "nocloud", Mode: "cloud"},
			Features: &machine.FeaturesInfo{Rbac: true},
		}, nil
	})
	return &machine.VersionResponse{Messages: messages}, err
}

func (a *apid) Memory(ctx context.Context, _ *emptypb.Empty) (*machine.MemoryResponse, error) {
	messages, err := each(ctx, a, func(*node) (*machine.Memory, error) {
		return &machine.Memory{Meminfo: &machine.MemInfo{Memtotal: 4 << 20}}, nil
	})
	return &machine.MemoryResponse{Messages: messages}, err
}

func (a *apid) ServiceList(ctx context.Context, _ *emptypb.Empty) (*machine.ServiceListResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.ServiceList, error) {
		list := &machine.ServiceList{}
		list.Services = append(list.Services, service("apid", true), service("kubelet", !n.NotReady))
		if n.Role == controlPlane {
			list.Services = append(list.Services, service("etcd", n.Etcd == etcdRunning))
		}
		return list, nil
	})
	return &machine.ServiceListResponse{Messages: messages}, err
}

func service(id string, well bool) *machine.ServiceInfo {
	state, said := "Running", "Health check successful"
	if !well {
		state, said = "Preparing", "Running pre state"
	}
	return &machine.ServiceInfo{
		Id:     id,
		State:  state,
		Events: &machine.ServiceEvents{Events: []*machine.ServiceEvent{{State: state, Msg: said}}},
		Health: &machine.ServiceHealth{Healthy: well, LastMessage: said},
	}
}

func (a *apid) EtcdMemberList(
	ctx context.Context, request *machine.EtcdMemberListRequest,
) (*machine.EtcdMemberListResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.EtcdMembers, error) {
		if err := a.etcd(n, request.GetQueryLocal()); err != nil {
			return nil, err
		}
		var list machine.EtcdMembers
		for _, member := range a.cluster.members() {
			list.Members = append(list.Members, &machine.EtcdMember{
				Id:         member.memberID(),
				Hostname:   member.Hostname,
				PeerUrls:   []string{fmt.Sprintf("https://%s:2380", member.Address)},
				ClientUrls: []string{fmt.Sprintf("https://%s:2379", member.Address)},
				IsLearner:  member.Etcd == etcdLearner,
			})
		}
		return &list, nil
	})
	return &machine.EtcdMemberListResponse{Messages: messages}, err
}

// etcd says why a node's etcd does not answer.
func (a *apid) etcd(n *node, local bool) error {
	switch {
	case n.Role != controlPlane:
		return status.Error(codes.Unimplemented, "member list is only available on control plane nodes")
	case n.Etcd == etcdNone, local && n.Etcd == etcdSick, !a.cluster.bootstrapped():
		return status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	}
	return nil
}

func (a *apid) EtcdStatus(ctx context.Context, _ *emptypb.Empty) (*machine.EtcdStatusResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.EtcdStatus, error) {
		if err := a.etcd(n, true); err != nil {
			return nil, err
		}
		return &machine.EtcdStatus{MemberStatus: &machine.EtcdMemberStatus{
			MemberId:        n.memberID(),
			Leader:          a.cluster.members()[0].memberID(),
			IsLearner:       n.Etcd == etcdLearner,
			ProtocolVersion: "3.6.9",
			StorageVersion:  "3.6.0",
		}}, nil
	})
	return &machine.EtcdStatusResponse{Messages: messages}, err
}

func (a *apid) EtcdLeaveCluster(
	ctx context.Context, _ *machine.EtcdLeaveClusterRequest,
) (*machine.EtcdLeaveClusterResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.EtcdLeaveCluster, error) {
		if err := a.etcd(n, true); err != nil {
			return nil, err
		}
		n.Etcd = etcdNone
		return &machine.EtcdLeaveCluster{}, nil
	})
	return &machine.EtcdLeaveClusterResponse{Messages: messages}, err
}

func (a *apid) EtcdRemoveMemberByID(
	ctx context.Context, request *machine.EtcdRemoveMemberByIDRequest,
) (*machine.EtcdRemoveMemberByIDResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.EtcdRemoveMemberByID, error) {
		if err := a.etcd(n, true); err != nil {
			return nil, err
		}
		members := a.cluster.members()
		at := slices.IndexFunc(members, func(m *node) bool { return m.memberID() == request.GetMemberId() })
		if at < 0 {
			return nil, status.Error(codes.NotFound, "etcdserver: member not found")
		}
		members[at].Etcd = etcdNone
		return &machine.EtcdRemoveMemberByID{}, nil
	})
	return &machine.EtcdRemoveMemberByIDResponse{Messages: messages}, err
}

func (a *apid) Kubeconfig(_ *emptypb.Empty, stream grpc.ServerStreamingServer[common.Data]) error {
	n, err := a.one(stream.Context())
	if err != nil {
		return err
	}
	if n.Role != controlPlane {
		return status.Error(codes.Unimplemented, "kubeconfig is only available on control plane nodes")
	}
	content := []byte(a.cluster.kubeconf)
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	files := tar.NewWriter(zipped)
	if err := files.WriteHeader(&tar.Header{Name: "kubeconfig", Mode: 0o600, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := files.Write(content); err != nil {
		return err
	}
	if err := files.Close(); err != nil {
		return err
	}
	if err := zipped.Close(); err != nil {
		return err
	}
	return stream.Send(&common.Data{Bytes: archive.Bytes()})
}

func (a *apid) Read(request *machine.ReadRequest, stream grpc.ServerStreamingServer[common.Data]) error {
	n, err := a.one(stream.Context())
	if err != nil {
		return err
	}
	if request.GetPath() != "/proc/sys/kernel/random/boot_id" {
		return status.Error(codes.NotFound, "no such file")
	}
	return stream.Send(&common.Data{Bytes: []byte(n.BootID + "\n")})
}

// Events sends an empty event first; asked for the past, it tells that the machine is ready.
func (a *apid) Events(request *machine.EventsRequest, stream grpc.ServerStreamingServer[machine.Event]) error {
	n, err := a.one(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.Send(&machine.Event{}); err != nil {
		return err
	}
	if request.GetTailEvents() != 0 {
		ready := &machine.MachineStatusEvent{
			Stage:  machine.MachineStatusEvent_RUNNING,
			Status: &machine.MachineStatusEvent_MachineStatus{Ready: true},
		}
		value, err := proto.Marshal(ready)
		if err != nil {
			return err
		}
		event := &machine.Event{Id: "1", Data: &anypb.Any{
			TypeUrl: "talos/runtime/" + string(ready.ProtoReflect().Descriptor().FullName()), Value: value,
		}}
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	gone := n.server.gone.Done()
	if n.Upgrade == upgradeUnheard {
		gone = nil
	}
	select {
	case <-stream.Context().Done():
	case <-gone:
	}
	return status.Error(codes.Unavailable, "the node goes down")
}

// A node takes any config here: what is in it is talosctl's and the tests' own business. A control plane that
// left etcd, or was made after the bootstrap, joins with it.
func (a *apid) ApplyConfiguration(
	ctx context.Context, request *machine.ApplyConfigurationRequest,
) (*machine.ApplyConfigurationResponse, error) {
	if err := a.firstConfig(ctx, request.GetData()); err != nil {
		return nil, err
	}
	messages, err := each(ctx, a, func(n *node) (*machine.ApplyConfiguration, error) {
		if n.Role == controlPlane && n.Etcd == etcdNone && a.cluster.bootstrapped() {
			n.Etcd = etcdRunning
		}
		return &machine.ApplyConfiguration{
			Mode:        machine.ApplyConfigurationRequest_NO_REBOOT,
			ModeDetails: "Applied configuration without a reboot",
		}, nil
	})
	return &machine.ApplyConfigurationResponse{Messages: messages}, err
}

func (a *apid) Reboot(ctx context.Context, _ *machine.RebootRequest) (*machine.RebootResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.Reboot, error) {
		go a.cluster.reboot(n)
		return &machine.Reboot{ActorId: "reboot-" + n.Hostname}, nil
	})
	return &machine.RebootResponse{Messages: messages}, err
}

func (a *apid) Shutdown(ctx context.Context, _ *machine.ShutdownRequest) (*machine.ShutdownResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.Shutdown, error) {
		go a.cluster.shutDown(n)
		return &machine.Shutdown{ActorId: "shutdown-" + n.Hostname}, nil
	})
	return &machine.ShutdownResponse{Messages: messages}, err
}

func (a *apid) Reset(ctx context.Context, request *machine.ResetRequest) (*machine.ResetResponse, error) {
	messages, err := each(ctx, a, func(n *node) (*machine.Reset, error) {
		if request.GetGraceful() {
			n.Etcd = etcdNone
		}
		n.pending = ""
		go a.cluster.reboot(n)
		return &machine.Reset{ActorId: "reset-" + n.Hostname}, nil
	})
	return &machine.ResetResponse{Messages: messages}, err
}

type imageService struct {
	machine.UnimplementedImageServiceServer
	apid *apid
}

func (s imageService) Pull(
	request *machine.ImageServicePullRequest, stream grpc.ServerStreamingServer[machine.ImageServicePullResponse],
) error {
	n, err := s.apid.one(stream.Context())
	if err != nil {
		return err
	}
	if n.Upgrade == upgradePullFails {
		return status.Errorf(codes.NotFound, "failed to resolve image %q: not found", request.GetImageRef())
	}
	return stream.Send(&machine.ImageServicePullResponse{
		Response: &machine.ImageServicePullResponse_Name{Name: request.GetImageRef()},
	})
}

type lifecycleService struct {
	machine.UnimplementedLifecycleServiceServer
	apid *apid
}

func (s lifecycleService) Upgrade(
	request *machine.LifecycleServiceUpgradeRequest,
	stream grpc.ServerStreamingServer[machine.LifecycleServiceUpgradeResponse],
) error {
	n, err := s.apid.one(stream.Context())
	if err != nil {
		return err
	}
	code := int32(0)
	if n.Upgrade == upgradeInstallFail {
		code = 1
	} else {
		s.apid.cluster.mu.Lock()
		s.apid.cluster.find(n.Address).pending = request.GetSource().GetImageName()
		s.apid.cluster.mu.Unlock()
	}
	for _, progress := range []*machine.LifecycleServiceInstallProgress{
		{Response: &machine.LifecycleServiceInstallProgress_Message{Message: "installing"}},
		{Response: &machine.LifecycleServiceInstallProgress_ExitCode{ExitCode: code}},
	} {
		if err := stream.Send(&machine.LifecycleServiceUpgradeResponse{Progress: progress}); err != nil {
			return err
		}
	}
	return nil
}
