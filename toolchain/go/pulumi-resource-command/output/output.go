// Package output captures what a command writes, and shows the lines that may be shown.
package output

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
)

// Names of the variables that hand the output of the previous run to the next one.
const (
	PreviousStdout = "PULUMI_COMMAND_STDOUT"
	PreviousStderr = "PULUMI_COMMAND_STDERR"
)

// Capture keeps a command's two streams and passes whole lines of the chosen ones to a log.
type Capture struct {
	// Stdout and Stderr take what the command writes.
	Stdout, Stderr io.Writer

	stdout, stderr, both bytes.Buffer
	lines                []*lineWriter
	quiet                bool
}

// NewCapture logs as `logging` says: "none", "stdout", "stderr"; all else is both.
func NewCapture(logging string, log func(line string)) *Capture {
	capture := &Capture{quiet: logging == "none"}
	// One lock: the streams are copied by two goroutines and meet in `both` and in the log.
	lock := &sync.Mutex{}
	stream := func(buffer *bytes.Buffer, logged bool) io.Writer {
		writers := []io.Writer{buffer, &capture.both}
		if logged {
			line := &lineWriter{log: log}
			capture.lines = append(capture.lines, line)
			writers = append(writers, line)
		}
		return &lockedWriter{lock: lock, Writer: io.MultiWriter(writers...)}
	}
	capture.Stdout = stream(&capture.stdout, !capture.quiet && logging != "stderr")
	capture.Stderr = stream(&capture.stderr, !capture.quiet && logging != "stdout")
	return capture
}

// Flush logs a last line that had no newline.
func (c *Capture) Flush() {
	for _, line := range c.lines {
		line.flush()
	}
}

// Results returns both streams, each without one newline at its end.
func (c *Capture) Results() (stdout, stderr string) {
	return strings.TrimSuffix(c.stdout.String(), "\n"), strings.TrimSuffix(c.stderr.String(), "\n")
}

// Failure wraps a command's error with the command and what it wrote. A command that must not be logged
// keeps its stdout to itself here too: stdout is where secrets go, stderr is where causes go.
func (c *Capture) Failure(err error, command string) error {
	written := c.both.String()
	if c.quiet {
		written = c.stderr.String()
	}
	return fmt.Errorf("%w: running %q:\n%s", err, command, written)
}

type lockedWriter struct {
	lock *sync.Mutex
	io.Writer
}

func (w *lockedWriter) Write(data []byte) (int, error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.Writer.Write(data)
}

type lineWriter struct {
	log  func(line string)
	rest []byte
}

func (w *lineWriter) Write(data []byte) (int, error) {
	w.rest = append(w.rest, data...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(data), nil
		}
		w.log(strings.TrimSuffix(string(w.rest[:end]), "\r"))
		w.rest = w.rest[end+1:]
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.log(string(w.rest))
		w.rest = nil
	}
}
