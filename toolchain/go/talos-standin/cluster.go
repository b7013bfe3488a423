package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Faces: how a node looks from outside.
const (
	faceUp          = "up"
	faceAbsent      = "absent"      // nothing listens
	faceSilent      = "silent"      // connections are taken, nothing is ever said
	faceMute        = "mute"        // TLS works, calls are never answered
	faceMaintenance = "maintenance" // self-signed, without a machine config
	faceStranger    = "stranger"    // certificate of another cluster
)

// What etcd does on a node.
const (
	etcdNone    = ""
	etcdRunning = "running"
	etcdSick    = "sick"    // a member whose service is not healthy
	etcdLearner = "learner" // joined, without a vote yet
)

// Ways an upgrade may end.
const (
	upgradeWorks       = ""
	upgradePullFails   = "pull fails"
	upgradeInstallFail = "install fails"
	upgradeRollsBack   = "rolls back"
	upgradeLost        = "lost"
	upgradeUnheard     = "unheard" // works, but who watches from elsewhere is not told
)

// Ways a config in maintenance mode may be taken.
const (
	takeLost    = "lost"    // the connection breaks, and the config is gone with it
	takeUnheard = "unheard" // it is taken, but the connection breaks before the answer
)

const controlPlane = "controlplane"

// refusal is an error that a node answers a number of times before it works.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Times   int    `json:"times"`
}

type node struct {
	Address   string    `json:"address"`
	Hostname  string    `json:"hostname"`
	Role      string    `json:"role"`
	Face      string    `json:"face"`
	Version   string    `json:"version"`
	Schematic string    `json:"schematic"`
	Etcd      string    `json:"etcd"`
	EtcdData  bool      `json:"etcd_data"` // bootstrap finds a data directory that is not empty
	Bootstrap []refusal `json:"bootstrap"`
	NotReady  bool      `json:"not_ready"`
	Cordoned  bool      `json:"cordoned"`
	Deleted   bool      `json:"deleted"` // its Kubernetes node is gone
	Upgrade   string    `json:"upgrade"`
	Stays     bool      `json:"stays"` // a shutdown, or the way out of maintenance mode, never ends
	Takes     []string  `json:"takes"` // how the next configs in maintenance mode are taken; then they just are
	BootID    string    `json:"boot_id"`

	Fingerprint string `json:"fingerprint"` // of its certificate in maintenance mode
	Config      []byte `json:"config"`      // what it was given there

	pending string // image of an upgrade that a reboot will run
	server  *apid
	self    *tls.Config // of maintenance mode
}

type call struct {
	Method  string   `json:"method"`
	Nodes   []string `json:"nodes"`
	Via     string   `json:"via"`
	Request string   `json:"request,omitempty"`
}

type scenario struct {
	Secrets        string  `json:"secrets"`
	StrangeSecrets string  `json:"strange_secrets"`
	Port           int     `json:"port"`
	KubernetesPort int     `json:"kubernetes_port"`
	RebootSeconds  float64 `json:"reboot_s"`
	Nodes          []*node `json:"nodes"`
}

type cluster struct {
	mu       sync.Mutex
	plan     scenario
	own      authorities
	strange  authorities
	calls    []call
	kubeconf string
}

func newCluster(text []byte) (*cluster, error) {
	c := &cluster{plan: scenario{Port: 50000, KubernetesPort: 6443, RebootSeconds: 0.3}}
	if err := json.Unmarshal(text, &c.plan); err != nil {
		return nil, err
	}
	var err error
	if c.own, err = loadAuthorities(c.plan.Secrets); err != nil {
		return nil, err
	}
	if c.plan.StrangeSecrets != "" {
		if c.strange, err = loadAuthorities(c.plan.StrangeSecrets); err != nil {
			return nil, err
		}
	}
	for _, n := range c.plan.Nodes {
		if n.Role == controlPlane {
			if err := c.serveKubernetes(n); err != nil {
				return nil, err
			}
		}
		n.BootID = n.Hostname + "-boot-1"
		if err := c.show(n); err != nil {
			return nil, err
		}
	}
	endpoint := fmt.Sprintf("https://%s:%d", c.plan.Nodes[0].Address, c.plan.KubernetesPort)
	c.kubeconf, err = c.own.kubernetes.kubeconfig(endpoint)
	return c, err
}

func (c *cluster) find(address string) *node {
	for _, n := range c.plan.Nodes {
		if n.Address == address {
			return n
		}
	}
	return nil
}

func (c *cluster) change(set map[string]json.RawMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, fields := range set {
		n := c.find(address)
		if n == nil {
			return fmt.Errorf("no node %s", address)
		}
		before := n.Face
		if err := json.Unmarshal(fields, n); err != nil {
			return err
		}
		if n.Face != before {
			if err := c.show(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) snapshot() ([]*node, []call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := make([]*node, 0, len(c.plan.Nodes))
	for _, n := range c.plan.Nodes {
		copied := *n
		nodes = append(nodes, &copied)
	}
	return nodes, slices.Clone(c.calls)
}

func (c *cluster) record(one call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, one)
}

// show makes the node look like its face; the caller holds the lock.
func (c *cluster) show(n *node) error {
	if n.server != nil {
		n.server.stop()
		n.server = nil
	}
	if n.Face == faceAbsent {
		return nil
	}
	var err error
	n.server, err = c.listen(n)
	return err
}

// members are the nodes that etcd knows, first to last.
func (c *cluster) members() []*node {
	var found []*node
	for _, n := range c.plan.Nodes {
		if n.Role == controlPlane && n.Etcd != etcdNone {
			found = append(found, n)
		}
	}
	return found
}

// bootstrapped says whether Kubernetes runs: etcd has its majority.
func (c *cluster) bootstrapped() bool {
	voters, well := 0, 0
	for _, n := range c.members() {
		if n.Etcd == etcdLearner {
			continue
		}
		voters++
		if n.Etcd == etcdRunning && n.Face == faceUp {
			well++
		}
	}
	return voters > 0 && well > voters/2
}

func (n *node) memberID() uint64 {
	digest := fnv.New64a()
	digest.Write([]byte(n.Hostname))
	return digest.Sum64()
}

// refuse gives the next scripted error of a bootstrap, nil when none is left.
func (n *node) refuse() error {
	for i := range n.Bootstrap {
		if n.Bootstrap[i].Times == 0 {
			continue
		}
		n.Bootstrap[i].Times--
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(`"` + n.Bootstrap[i].Code + `"`)); err != nil {
			code = codes.Unknown
		}
		return status.Error(code, n.Bootstrap[i].Message)
	}
	return nil
}

// bootstrap forms etcd on one node; the other control planes join it.
func (c *cluster) bootstrap(n *node) error {
	if err := n.refuse(); err != nil {
		return err
	}
	if n.Role != controlPlane {
		return status.Error(codes.Unimplemented, "bootstrap is only available on control plane nodes")
	}
	if n.Etcd != etcdNone || n.EtcdData {
		return status.Error(codes.AlreadyExists, "etcd data directory is not empty")
	}
	for _, other := range c.plan.Nodes {
		if other.Role == controlPlane && other.Etcd == etcdNone {
			other.Etcd = etcdRunning
		}
	}
	return nil
}

// shutDown takes the node away for good, unless it never does.
func (c *cluster) shutDown(n *node) {
	time.Sleep(time.Duration(c.plan.RebootSeconds * float64(time.Second)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if !n.Stays {
		n.Face = faceAbsent
		_ = c.show(n)
	}
}

// reboot takes the node away for a moment; an installed upgrade runs afterwards.
func (c *cluster) reboot(n *node) {
	time.Sleep(50 * time.Millisecond) // the answer goes out first
	c.mu.Lock()
	n.Face = faceAbsent
	_ = c.show(n)
	lost := n.pending != "" && n.Upgrade == upgradeLost
	c.mu.Unlock()
	if lost {
		return
	}
	time.Sleep(time.Duration(c.plan.RebootSeconds * float64(time.Second)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.pending != "" && n.Upgrade != upgradeRollsBack {
		name, tag, _ := strings.Cut(n.pending[strings.LastIndex(n.pending, "/")+1:], ":")
		n.Schematic, n.Version = name, tag
	}
	n.pending = ""
	n.BootID += "+"
	n.Face = faceUp
	_ = c.show(n)
}
