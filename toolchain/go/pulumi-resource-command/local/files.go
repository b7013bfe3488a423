package local

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gobwas/glob"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// collect reads the files that the command was asked to leave.
func (r *Results) collect(dir string, settings Settings) error {
	if dir == "" {
		dir = "."
	}
	if settings.AssetPaths != nil {
		assets, err := matching(dir, *settings.AssetPaths)
		if err != nil {
			return err
		}
		files := make(map[string]types.AssetOrArchive, len(assets))
		for name, asset := range assets {
			files[name] = types.AssetOrArchive{Asset: asset}
		}
		r.Assets = &files
	}
	if settings.ArchivePaths != nil {
		assets, err := matching(dir, *settings.ArchivePaths)
		if err != nil {
			return err
		}
		members := make(map[string]any, len(assets))
		for name, asset := range assets {
			members[name] = asset
		}
		if r.Archive, err = resource.NewAssetArchive(members); err != nil {
			return err
		}
	}
	return nil
}

// rule is one glob; a leading `!` makes it take files away again. The last rule that matches decides.
type rule struct {
	glob.Glob
	exclude bool
}

func matching(dir string, patterns []string) (map[string]*resource.Asset, error) {
	rules := make([]rule, 0, len(patterns))
	for _, pattern := range patterns {
		compiled, err := glob.Compile(strings.TrimPrefix(pattern, "!"), '/')
		if err != nil {
			return nil, fmt.Errorf("glob %q: %w", pattern, err)
		}
		rules = append(rules, rule{compiled, strings.HasPrefix(pattern, "!")})
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	assets := map[string]*resource.Asset{}
	err = fs.WalkDir(os.DirFS(absolute), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		wanted := false
		for _, r := range rules {
			if r.Match(path) {
				wanted = !r.exclude
			}
		}
		if !wanted {
			return nil
		}
		assets[path], err = resource.NewPathAsset(filepath.Join(dir, path))
		return err
	})
	return assets, err
}
