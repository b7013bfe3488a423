// Command talos-standin plays the nodes of a Talos cluster for tests: the real API definitions and mutual TLS
// of a generated secrets.yaml, answers by a script. It holds no Talos and proves nothing about a real node.
//
// The first line on stdin is the scenario; each further line is a command, answered by one line on stdout:
//
//	{"set": {"127.0.0.11": {"face": "absent"}}}   change nodes
//	{"state": true}                               nodes and the calls so far
//
// It ends when stdin does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

const version = "1.13.0"

type command struct {
	Set   map[string]json.RawMessage `json:"set"`
	State bool                       `json:"state"`
}

type report struct {
	Ready bool    `json:"ready,omitempty"`
	Error string  `json:"error,omitempty"`
	Nodes []*node `json:"nodes,omitempty"`
	Calls []call  `json:"calls,omitempty"`
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "-version" {
		fmt.Println(version)
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "talos-standin:", err)
		os.Exit(1)
	}
}

func serve() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return fmt.Errorf("no scenario on stdin")
	}
	cluster, err := newCluster(lines.Bytes())
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(report{Ready: true}); err != nil {
		return err
	}
	for lines.Scan() {
		answer := report{Ready: true}
		var order command
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			answer = report{Error: err.Error()}
		} else if err := cluster.change(order.Set); err != nil {
			answer = report{Error: err.Error()}
		} else if order.State {
			answer.Nodes, answer.Calls = cluster.snapshot()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}
