package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// CopyToRemote copies a file, a folder or a text to another machine. Nothing is removed on delete.
type CopyToRemote struct{}

// CopyToRemoteInputs are its inputs. A changed trigger replaces the resource; all else copies again.
type CopyToRemoteInputs struct {
	Connection *Connection          `pulumi:"connection" provider:"secret"`
	Source     types.AssetOrArchive `pulumi:"source"`
	RemotePath string               `pulumi:"remotePath"`
	Triggers   *[]any               `pulumi:"triggers,optional" provider:"replaceOnChanges"`
}

// CopyToRemoteOutputs are its state.
type CopyToRemoteOutputs struct {
	CopyToRemoteInputs
}

// Check refuses sources that are not on this machine.
func (CopyToRemote) Check(
	ctx context.Context, request infer.CheckRequest,
) (infer.CheckResponse[CopyToRemoteInputs], error) {
	inputs, failures, err := infer.DefaultCheck[CopyToRemoteInputs](ctx, request.NewInputs)
	if err == nil && len(failures) == 0 && !computed(request.NewInputs) {
		if reason := refusal(inputs.Source); reason != "" {
			failures = append(failures, p.CheckFailure{Property: "source", Reason: reason})
		}
	}
	return infer.CheckResponse[CopyToRemoteInputs]{Inputs: inputs, Failures: failures}, err
}

func computed(inputs property.Map) bool { return inputs.Get("source").HasComputed() }

func refusal(source types.AssetOrArchive) string {
	switch {
	case source.Asset != nil && !source.Asset.IsPath() && !source.Asset.IsText():
		return "an asset must be a local file or a text"
	case source.Archive != nil && !source.Archive.IsPath():
		return "an archive must be a local file or folder"
	case (source.Asset == nil) == (source.Archive == nil):
		return "give either an asset or an archive"
	}
	return ""
}

// Create copies.
func (CopyToRemote) Create(
	ctx context.Context, request infer.CreateRequest[CopyToRemoteInputs],
) (infer.CreateResponse[CopyToRemoteOutputs], error) {
	id, err := resource.NewUniqueHex(request.Name, 8, 0)
	if err == nil && !request.DryRun {
		err = request.Inputs.copy(ctx)
	}
	return infer.CreateResponse[CopyToRemoteOutputs]{ID: id, Output: CopyToRemoteOutputs{request.Inputs}}, err
}

// Update copies again if the content or the place changed; a changed connection alone copies nothing.
func (CopyToRemote) Update(
	ctx context.Context, request infer.UpdateRequest[CopyToRemoteInputs, CopyToRemoteOutputs],
) (infer.UpdateResponse[CopyToRemoteOutputs], error) {
	var err error
	changed := digest(request.Inputs.Source) != digest(request.State.Source) ||
		request.Inputs.RemotePath != request.State.RemotePath
	if changed && !request.DryRun {
		err = request.Inputs.copy(ctx)
	}
	return infer.UpdateResponse[CopyToRemoteOutputs]{Output: CopyToRemoteOutputs{request.Inputs}}, err
}

func digest(source types.AssetOrArchive) string {
	if source.Asset != nil {
		return source.Asset.Hash
	}
	if source.Archive != nil {
		return source.Archive.Hash
	}
	return ""
}

func (i *CopyToRemoteInputs) copy(ctx context.Context) error {
	client, err := i.Connection.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	files, err := sftp.NewClient(client)
	if err != nil {
		return fmt.Errorf("SFTP with %s: %w", i.Connection.Host, err)
	}
	defer func() { _ = files.Close() }()
	target := target{files}
	if asset := i.Source.Asset; asset != nil && asset.IsText() {
		if target.isFolder(i.RemotePath) {
			return fmt.Errorf("%s is a folder on the machine; a text needs the path of a file", i.RemotePath)
		}
		return target.write(strings.NewReader(asset.Text), i.RemotePath)
	}
	source := ""
	if i.Source.Asset != nil {
		source = i.Source.Asset.Path
	} else {
		source = i.Source.Archive.Path
	}
	return target.copy(source, i.RemotePath)
}

type target struct {
	files *sftp.Client
}

func (t target) isFolder(name string) bool {
	info, err := t.files.Stat(name)
	return err == nil && info.IsDir()
}

// copy follows the official plugin. A file lands in a folder that exists, else at the path itself. A folder
// lands below the path under its own name, or with a trailing slash as the path's content.
func (t target) copy(source, destination string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if t.isFolder(destination) {
			destination = path.Join(destination, filepath.Base(source))
		}
		return t.file(source, destination)
	}
	if err := t.folder(destination); err != nil {
		return err
	}
	if !strings.HasSuffix(source, "/") {
		destination = path.Join(destination, filepath.Base(source))
	}
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		there := path.Join(destination, filepath.ToSlash(relative))
		if entry.IsDir() {
			return t.folder(there)
		}
		return t.file(name, there)
	})
}

func (t target) folder(name string) error {
	if t.isFolder(name) {
		return nil
	}
	if err := t.files.Mkdir(name); err != nil {
		return fmt.Errorf("folder %s on the machine: %w", name, err)
	}
	return nil
}

func (t target) file(source, destination string) error {
	content, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	return t.write(content, destination)
}

func (t target) write(content io.Reader, destination string) error {
	file, err := t.files.Create(destination)
	if err != nil {
		return fmt.Errorf("file %s on the machine: %w", destination, err)
	}
	_, err = file.ReadFrom(content)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("file %s on the machine: %w", destination, err)
	}
	return nil
}
