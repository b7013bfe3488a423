package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

var controlPlanePods = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}

type object = map[string]any

// serveKubernetes plays what talosctl asks the Kubernetes API of a control plane, no more.
func (c *cluster) serveKubernetes(n *node) error {
	config, err := c.own.kubernetes.serverTLS(n.Address)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(n.Address, fmt.Sprint(c.plan.KubernetesPort)))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           kubernetes{cluster: c, node: n},
		TLSConfig:         config,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(os.Stderr, "kubernetes: ", 0),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	return nil
}

type kubernetes struct {
	cluster *cluster
	node    *node
}

func (k kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.cluster.record(call{Method: r.Method + " " + r.URL.Path, Via: k.node.Address})
	k.cluster.mu.Lock()
	defer k.cluster.mu.Unlock()
	answer, code := k.answer(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer)
}

func (k kubernetes) answer(r *http.Request) (any, int) {
	if k.node.Face != faceUp || !k.cluster.bootstrapped() {
		return failure("etcd has no leader"), http.StatusServiceUnavailable
	}
	selector := r.URL.Query().Get("labelSelector")
	switch path := r.URL.Path; {
	case path == "/readyz":
		return "ok", http.StatusOK
	case path == "/api/v1/nodes":
		return list("v1", "NodeList", k.nodes()), http.StatusOK
	case strings.HasPrefix(path, "/api/v1/nodes/"):
		return k.change(r, strings.TrimPrefix(path, "/api/v1/nodes/"))
	case path == "/api/v1/pods":
		return list("v1", "PodList", []object{}), http.StatusOK
	case path == "/api/v1/namespaces/kube-system/pods":
		return list("v1", "PodList", k.pods(selector)), http.StatusOK
	case path == "/apis/apps/v1/namespaces/kube-system/daemonsets":
		return list("apps/v1", "DaemonSetList", []object{}), http.StatusOK
	case path == "/apis/apps/v1/namespaces/kube-system/deployments":
		return list("apps/v1", "DeploymentList", []object{}), http.StatusOK
	}
	return failure("the stand-in does not play this"), http.StatusNotFound
}

func (k kubernetes) nodes() []object {
	found := []object{}
	for _, n := range k.cluster.plan.Nodes {
		if k.joined(n) {
			found = append(found, kubernetesNode(n))
		}
	}
	return found
}

// joined says whether the node is in the cluster's list: a control plane once etcd has it.
func (k kubernetes) joined(n *node) bool {
	return !n.Deleted && (n.Role != controlPlane || n.Etcd != etcdNone || n.Cordoned)
}

func (k kubernetes) change(r *http.Request, name string) (any, int) {
	for _, n := range k.cluster.plan.Nodes {
		if n.Hostname != name || n.Deleted {
			continue
		}
		switch r.Method {
		case http.MethodDelete:
			n.Deleted = true
		case http.MethodPatch:
			var patch struct {
				Spec struct {
					Unschedulable *bool `json:"unschedulable"`
				} `json:"spec"`
			}
			if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
				return failure(err.Error()), http.StatusBadRequest
			}
			n.Cordoned = patch.Spec.Unschedulable != nil && *patch.Spec.Unschedulable
		}
		return kubernetesNode(n), http.StatusOK
	}
	return failure(fmt.Sprintf("nodes %q not found", name)), http.StatusNotFound
}

func (k kubernetes) pods(selector string) []object {
	app := strings.TrimSpace(strings.TrimPrefix(strings.ReplaceAll(selector, " ", ""), "k8s-app="))
	found := []object{}
	for _, pod := range controlPlanePods {
		for _, n := range k.cluster.plan.Nodes {
			if pod == app && n.Role == controlPlane && k.joined(n) {
				found = append(found, object{
					"metadata": object{"name": pod + "-" + n.Hostname, "namespace": "kube-system"},
					"status":   object{"phase": "Running", "conditions": ready(n)},
				})
			}
		}
	}
	return found
}

func kubernetesNode(n *node) object {
	labels := object{"kubernetes.io/hostname": n.Hostname}
	if n.Role == controlPlane {
		labels["node-role.kubernetes.io/control-plane"] = ""
	}
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata":   object{"name": n.Hostname, "labels": labels},
		"spec":       object{"unschedulable": n.Cordoned},
		"status": object{
			"addresses":  []object{{"type": "InternalIP", "address": n.Address}},
			"conditions": ready(n),
		},
	}
}

func ready(n *node) []object {
	status := "True"
	if n.NotReady || n.Face != faceUp {
		status = "False"
	}
	return []object{{"type": "Ready", "status": status}}
}

func list(version, kind string, items []object) object {
	return object{"apiVersion": version, "kind": kind, "metadata": object{}, "items": items}
}

func failure(text string) object {
	return object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": text}
}
