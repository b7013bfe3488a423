package main

import (
	"context"

	cosi "github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/cosi-project/runtime/pkg/state/impl/inmem"
	"github.com/cosi-project/runtime/pkg/state/impl/namespaced"
	"github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	"github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
)

// resourceService serves a node's resources, made anew from its state at each call.
type resourceService struct {
	cosi.UnimplementedStateServer
	apid *apid
}

func (s resourceService) of(ctx context.Context) (*server.State, error) {
	n, err := s.apid.one(ctx)
	if err != nil {
		return nil, err
	}
	s.apid.cluster.mu.Lock()
	defer s.apid.cluster.mu.Unlock()
	resources := state.WrapCore(namespaced.NewState(inmem.Build))
	for _, each := range s.apid.cluster.resources(&n) {
		if err := resources.Create(ctx, each); err != nil {
			return nil, err
		}
	}
	return server.NewState(resources), nil
}

func (s resourceService) Get(ctx context.Context, request *cosi.GetRequest) (*cosi.GetResponse, error) {
	resources, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	return resources.Get(ctx, request)
}

func (s resourceService) List(request *cosi.ListRequest, stream cosi.State_ListServer) error {
	resources, err := s.of(stream.Context())
	if err != nil {
		return err
	}
	return resources.List(request, stream)
}

func (s resourceService) Watch(request *cosi.WatchRequest, stream cosi.State_WatchServer) error {
	resources, err := s.of(stream.Context())
	if err != nil {
		return err
	}
	return resources.Watch(request, stream)
}

func (c *cluster) resources(n *node) []resource.Resource {
	machineStatus := runtime.NewMachineStatus()
	machineStatus.TypedSpec().Stage = runtime.MachineStageRunning
	machineStatus.TypedSpec().Status.Ready = true

	version := runtime.NewVersion()
	version.TypedSpec().Name, version.TypedSpec().Version = "Talos", n.Version

	schematic := runtime.NewExtensionStatus(runtime.NamespaceName, "0")
	schematic.TypedSpec().Metadata.Name, schematic.TypedSpec().Metadata.Version = "schematic", n.Schematic

	disk := block.NewVolumeStatus(block.NamespaceName, "EPHEMERAL")
	disk.TypedSpec().Size = 20 << 30

	name := k8s.NewNodename(k8s.NamespaceName, k8s.NodenameID)
	name.TypedSpec().Nodename = n.Hostname

	manifests := k8s.NewBootstrapManifestsConfig()
	manifests.TypedSpec().CNIName = "flannel"

	found := []resource.Resource{machineStatus, version, disk, name, manifests}
	if n.Schematic != "" {
		found = append(found, schematic)
	}
	kubelet := v1alpha1.NewService("kubelet")
	kubelet.TypedSpec().Running, kubelet.TypedSpec().Healthy = true, !n.NotReady
	found = append(found, kubelet)
	if n.Role == controlPlane && n.Etcd != etcdNone {
		service := v1alpha1.NewService("etcd")
		service.TypedSpec().Running, service.TypedSpec().Healthy = true, n.Etcd == etcdRunning
		member := etcd.NewMember(etcd.NamespaceName, etcd.LocalMemberID)
		member.TypedSpec().MemberID = etcd.FormatMemberID(n.memberID())
		found = append(found, service, member)
	}
	if n.Role == controlPlane && c.bootstrapped() {
		for _, pod := range controlPlanePods {
			found = append(found, k8s.NewStaticPodStatus(k8s.NamespaceName, "kube-system/"+pod+"-"+n.Hostname))
		}
	}
	for _, known := range []meta.ResourceDefinitionProvider{
		machineStatus, version, schematic, disk, name, manifests, kubelet,
		etcd.NewMember(etcd.NamespaceName, ""), k8s.NewStaticPodStatus(k8s.NamespaceName, ""),
		runtime.NewDiagnostic(runtime.NamespaceName, ""),
	} {
		definition, err := meta.NewResourceDefinition(known.ResourceDefinition())
		if err != nil {
			panic(err) // a definition of Talos' own
		}
		found = append(found, definition)
	}
	return found
}
